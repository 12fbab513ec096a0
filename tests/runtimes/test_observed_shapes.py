"""Shapes behind operators that neither ONNX nor the tables know, as onnxruntime finds them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.runtimes.observed_shapes import declare_shapes
from obs_onnx.runtimes.onnxruntime import OrtRuntime

RNG = np.random.default_rng(0)
WEIGHTS = {
    "w1": RNG.standard_normal((4, 8)).astype(np.float32),
    "w2": RNG.standard_normal((8, 6)).astype(np.float32),
    "w3": RNG.standard_normal((6, 2)).astype(np.float32),
}
BEHIND = " m = MatMul(u, w2) r = Relu(m) y = MatMul(r, w3) }"


def net(make_model, operator: str, shape: str = "N,T,4", **more: np.ndarray) -> ir.Model:
    """An operator between layers, the first of which it touches."""
    text = f"g (float[{shape}] x) => (float[{shape[:-1]}2] y) {{ h = MatMul(x, w1) {operator}"
    return make_model(text + BEHIND, {**WEIGHTS, **more})


def shape_of(model: ir.Model, name: str) -> list[int | str | None] | None:
    values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
    shape = values[name].shape
    return None if shape is None else [dim if isinstance(dim, int) else dim.value for dim in shape]


@pytest.mark.parametrize(
    ("operator", "more"),
    [
        ("u = com.microsoft.SampleOp(h)", {}),
        ("u = com.microsoft.Pad(h, pads, zero)", {"pads": np.zeros(6, np.int64), "zero": np.float32(0)}),
    ],
)
def test_what_lies_behind_an_unknown_operator_is_free(make_model, operator: str, more) -> None:
    model = net(make_model, operator, **more)
    assert couple(prepare(model)).groups == []  # nothing can be said of what lies behind
    found = declare_shapes(OrtRuntime, model)
    assert shape_of(found, "u") == ["N", "T", 8]
    assert shape_of(model, "u") is None
    coupling = couple(prepare(found))
    assert [(group.name, group.n) for group in coupling.groups] == [("w2[1]", 6)]
    assert any(one.reason == "nothing is known about how its axes relate" for one in coupling.frozen)


def test_sizes_that_are_not_those_of_inputs_stay_unknown(make_model) -> None:
    model = net(
        make_model,
        "u = com.microsoft.Pad(h, pads, zero)",
        pads=np.array([0, 1, 0, 0, 1, 0]),
        zero=np.float32(0),
    )
    assert shape_of(declare_shapes(OrtRuntime, model), "u") == ["N", None, 8]


def test_free_sizes_without_names(make_model) -> None:
    found = declare_shapes(OrtRuntime, net(make_model, "u = com.microsoft.SampleOp(h)", "N,T,4"))
    unnamed = net(make_model, "u = com.microsoft.SampleOp(h)", "N,T,4")
    unnamed.graph.inputs[0].shape = ir.Shape([None, None, 4])
    unnamed.graph.outputs[0].shape = ir.Shape([None, None, 2])
    assert len(couple(prepare(declare_shapes(OrtRuntime, unnamed))).groups) == 1
    assert len(couple(prepare(found)).groups) == 1


@pytest.mark.parametrize("operator", ["u = Relu(h)", "u = com.microsoft.FastGelu(h)"])
def test_nothing_runs_where_all_is_known(make_model, operator: str) -> None:
    model = net(make_model, operator)
    model.opset_imports["my.own"] = 1
    assert declare_shapes(OrtRuntime, model) is model


def test_an_operator_that_the_runtime_lacks_leaves_the_model_as_it_is(make_model) -> None:
    model = net(make_model, "u = com.microsoft.NoSuchThing(h)")
    assert declare_shapes(OrtRuntime, model) is model


def test_data_is_asked_where_random_numbers_do_not_do(make_model) -> None:
    """Indices have to lie in the table."""
    model = make_model(
        "g (int64[N,T] ids) => (float[N,T,2] y) { l = Add(ids, far) h = Gather(table, l) "
        "u = com.microsoft.SampleOp(h)" + BEHIND,
        {**WEIGHTS, "table": RNG.standard_normal((1000, 8)).astype(np.float32), "far": np.array(-7)},
    )
    asked = []

    def sample(specs):
        asked.append([spec.name for spec in specs])
        return {"ids": np.full((4, 5), 900)}

    found = declare_shapes(OrtRuntime, model, sample)
    assert shape_of(found, "u") == ["N", "T", 8]
    assert len(couple(prepare(found)).groups) == 1


def declared(make_model, operator: str, **shapes: list[int | str]) -> ir.Model:
    """The graph of ``net`` with value_info that calls the free sizes by names that no input has."""
    model = net(make_model, operator)
    model.opset_imports["my.own"] = 1
    values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
    for name, shape in shapes.items():
        values[name].shape, values[name].type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
    return model


def test_sizes_under_names_that_no_input_has_are_found_by_a_run(make_model) -> None:
    operator = "c = com.microsoft.SampleOp(h) u = Add(h, c)"
    model = declared(make_model, operator, c=["batch", "length", 8])
    found = declare_shapes(OrtRuntime, model)
    assert shape_of(found, "c") == ["N", "T", 8]
    assert shape_of(model, "c") == ["batch", "length", 8]
    assert [(group.name, group.n) for group in couple(prepare(found)).groups] == [("w2[1]", 6)]


def test_nothing_runs_where_sizes_have_the_names_of_inputs(make_model) -> None:
    model = declared(make_model, "u = com.microsoft.SampleOp(h)", u=["N", "T", 8])
    assert declare_shapes(OrtRuntime, model) is model  # the names are those of the input


@pytest.mark.parametrize("domain", ["my.own", "com.microsoft"])
def test_sizes_under_other_names_are_found_where_nothing_runs(make_model, domain: str) -> None:
    operator = f"c = {domain}.NoSuchThing(h) u = Add(h, c)"
    shapes = {"h": ["batch", "length", 8], "c": ["batch", "length", 8]}
    found = declare_shapes(OrtRuntime, declared(make_model, operator, **shapes))
    assert shape_of(found, "c") == ["N", "T", 8]
    assert [(group.name, group.n) for group in couple(prepare(found)).groups] == [("w2[1]", 6)]


def decoder(make_model, middle: str) -> ir.Model:
    """A layer with packed queries, keys and values and a cache, without value_info."""
    size = 16
    weights = {
        "table": RNG.standard_normal((50, size)).astype(np.float32),
        "qkv": RNG.standard_normal((size, 32)).astype(np.float32),
        "o": RNG.standard_normal((16, size)).astype(np.float32),
        "up": RNG.standard_normal((size, 24)).astype(np.float32),
        "down": RNG.standard_normal((24, size)).astype(np.float32),
        "scale": np.ones(size, np.float32),
        "head": RNG.standard_normal((size, 50)).astype(np.float32),
    }
    return make_model(
        "g (int64[B,S] ids, float[B,2,P,4] pk, float[B,2,P,4] pv, int32[B] ends, int32 total) => "
        "(float[B,S,50] y, float[B,2,Q,4] nk, float[B,2,Q,4] nv) {"
        "h = Gather(table, ids) n = SimplifiedLayerNormalization <axis = -1> (h, scale) p = MatMul(n, qkv)"
        "a, nk, nv = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2>"
        " (p, '', '', pk, pv, ends, total) b = MatMul(a, o)".replace("''", '""')
        + f"{middle}"
        + " c, s0, s1, g = com.microsoft.SkipSimplifiedLayerNormalization(h, m, scale)"
        " u = MatMul(c, up) r = Relu(u) d = MatMul(r, down)"
        " e = com.microsoft.SkipSimplifiedLayerNormalization(g, d, scale) y = MatMul(e, head) }",
        weights,
    )


def test_a_packed_decoder_without_value_info(make_model) -> None:
    model = decoder(make_model, " m = Identity(b)")
    assert declare_shapes(OrtRuntime, model) is model
    assert {(one.name, one.n) for one in couple(prepare(model)).groups} >= {("table[1]", 16), ("up[1]", 24)}


def test_a_packed_decoder_with_an_unknown_operator_keeps_what_lies_behind(make_model) -> None:
    def sample(specs):
        known = {"ends": np.full(2, 7, np.int32), "total": np.array(8, np.int32), "ids": np.ones((2, 5), int)}
        cache = np.zeros((2, 2, 3, 4), np.float32)
        return {spec.name: known.get(spec.name, cache) for spec in specs}

    model = decoder(make_model, " m = com.microsoft.SampleOp(b)")
    found = declare_shapes(OrtRuntime, model, sample)
    assert shape_of(found, "m") == ["B", "S", 16]
    assert ("up[1]", 24) in {(one.name, one.n) for one in couple(prepare(found)).groups}


def test_an_operator_that_nobody_knows_in_a_decoder_freezes_what_touches_it(make_model) -> None:
    """Nothing runs it, yet the file says its shape: what lies behind is found all the same."""
    model = decoder(make_model, " m = acme.kernels.Mystery(b)")
    model.opset_imports["acme.kernels"] = 1
    value = ir.convenience.create_value_mapping(model.graph)["m"]
    value.shape, value.type = ir.Shape(["B", "S", 16]), ir.TensorType(ir.DataType.FLOAT)
    coupling = couple(prepare(declare_shapes(OrtRuntime, model)))
    assert {(one.name, one.n) for one in coupling.groups} == {("up[1]", 24), ("qkv[1]", 2)}
    assert any("nothing is known" in one.reason for one in coupling.frozen)
