"""Small constants with one user each; large ones, defaults, outputs and shapes as they were."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from obs_onnx.passes.canonical.own_constants import OwnConstants, ShareConstants, prepare
from obs_onnx.passes.graph.names import COPY_OF

TWICE = "g (float[N,8] x) => (float[N,8] y) { a = Mul(x, v)  b = Add(a, v)  y = Sub(b, v) }"


def test_the_first_use_keeps_the_name_and_copies_say_what_they_are_copies_of(make_model) -> None:
    model = make_model(TWICE, {"v": np.arange(8, dtype=np.float32)})
    assert OwnConstants().call(model).modified
    used = [node.inputs[1] for node in model.graph]
    assert [value.name for value in used] == ["v", "v_1", "v_2"]
    assert [value.meta.get(COPY_OF) for value in used] == [None, "v", "v"]
    for value in used:
        np.testing.assert_array_equal(value.const_value.numpy(), np.arange(8))
    assert not OwnConstants().call(model).modified


@pytest.mark.parametrize(
    ("shape", "shared"),
    [
        ((8,), False),
        ((2000,), False),
        ((1, 2000), False),
        ((31, 33), False),
        ((32, 32), True),
        ((2, 40, 40), True),
    ],
)
def test_tied_matrices_stay_tied(make_model, shape: tuple[int, ...], shared: bool) -> None:
    dims = ",".join(map(str, shape))
    model = make_model(
        f"g (float[{dims}] x) => (float[{dims}] y) {{ a = Mul(x, v)  y = Add(a, v) }}",
        {"v": np.ones(shape, np.float32)},
    )
    assert OwnConstants().call(model).modified != shared
    assert len(model.graph.initializers) == (1 if shared else 2)


def test_what_may_be_overridden_what_comes_out_and_who_asks_for_a_shape(make_proto) -> None:
    text = """g (float[N,8] x) => (float[N,8] y, float[8] o) {
        a = Mul(x, d)  b = Add(a, d)  c = Mul(b, o)  e = Add(c, o)
        s = Shape(v)  f = Expand(v, s)  g = Mul(e, f)  y = Add(g, v)
    }"""
    proto = make_proto(text, {name: np.ones(8, np.float32) for name in "dov"} | {"n": np.array([8])})
    proto.graph.input.append(onnx.helper.make_tensor_value_info("d", 1, [8]))
    model = ir.from_proto(proto)
    OwnConstants().call(model)
    assert set(model.graph.initializers) == {"d", "o", "v", "v_1", "n"}
    shape, expand = (
        next(node for node in model.graph if node.op_type == kind) for kind in ("Shape", "Expand")
    )
    assert shape.inputs[0].name == expand.inputs[0].name == "v"


@pytest.mark.parametrize("canonical", [True, False])
def test_a_prepared_model_computes_the_same_and_the_original_stays(
    make_proto, run_model, rng, canonical
) -> None:
    proto = make_proto(
        """g (float[N,3,4] x) => (float[N,6,4] y) {
            k = Constant <value = float[6,1] {1,2,3,4,5,6}> ()  t = Transpose <perm = [1, 0, 2]> (w)
            c = Conv(x, t, b)  n = Mul(c, k)  y = Add(n, k)
        }""",
        {"w": rng.normal(size=(3, 6, 1)).astype(np.float32), "b": rng.normal(size=6).astype(np.float32)},
    )
    original = ir.from_proto(proto)
    before = ir.to_proto(original).SerializeToString(deterministic=True)
    model = prepare(original, canonical)
    assert ir.to_proto(original).SerializeToString(deterministic=True) == before
    assert model.graph.initializers["w"].shape == ((6, 3, 1) if canonical else (3, 6, 1))
    assert model.graph.initializers["k_1"].meta[COPY_OF] == "k"
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(run_model(model, {"x": x})["y"], run_model(proto, {"x": x})["y"], rtol=1e-6)


def test_copies_that_still_hold_the_same_are_one_again(make_model) -> None:
    model = make_model(TWICE, {"v": np.arange(8, dtype=np.float32)})
    OwnConstants().call(model)
    model.graph.initializers["v_2"].const_value = ir.Tensor(np.ones(8, np.float32), name="v_2")
    assert ShareConstants().call(model).modified
    assert [node.inputs[1].name for node in model.graph] == ["v", "v", "v_2"]
    assert list(model.graph.initializers) == ["v", "v_2"]
    assert not ShareConstants().call(model).modified


def test_equal_constants_that_were_two_before_stay_two(make_model) -> None:
    text = "g (float[N,8] x) => (float[N,8] y) { a = Mul(x, v)  y = Add(a, w) }"
    model = make_model(text, {"v": np.ones(8, np.float32), "w": np.ones(8, np.float32)})
    OwnConstants().call(model)
    assert not ShareConstants().call(model).modified


def test_strings_are_compared_as_such() -> None:
    words = [ir.StringTensor([b"a", b"b"], shape=ir.Shape([2]), name=name) for name in ("v", "w")]
    first, second = (ir.Value(name=one.name, const_value=one) for one in words)
    second.meta[COPY_OF] = "v"
    nodes = [ir.node("Identity", [value]) for value in (first, second)]
    graph = ir.Graph([], [node.outputs[0] for node in nodes], nodes=nodes, initializers=[first, second])
    model = ir.Model(graph, ir_version=8)
    assert ShareConstants().call(model).modified
    assert [node.inputs[0].name for node in model.graph] == ["v", "v"]
