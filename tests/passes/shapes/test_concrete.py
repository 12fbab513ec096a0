"""Concrete shapes against real runs, what varies between runs, and the small numbers made from shapes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_helpers import shape_of
from nets import NETS, run_proto

from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.shapes.concrete import concretize, optional_inputs

FLATTENED = """g (float[N,3,H,4] x) => (float[N,M] y) {
    s = Shape(x)  n = Gather <axis = 0> (s, zero)  rest = Slice(s, one, four)
    p = ReduceProd <keepdims = 0> (rest)  q = Unsqueeze(p, zeros)  m = Unsqueeze(n, zeros)
    shape = Concat <axis = 0> (m, q)  y = Reshape(x, shape)
}"""
NUMBERS = {"zero": np.array(0), "one": np.array([1]), "four": np.array([4]), "zeros": np.array([0])}


def named(model: ir.Model) -> dict[str, ir.Value]:
    return {str(value.name): value for node in model.graph for value in node.outputs}


@pytest.mark.parametrize("name", sorted(NETS))
def test_shapes_are_those_of_a_run(name: str) -> None:
    proto = NETS[name]()
    model = prepare(ir.from_proto(proto))
    found = concretize(model)
    assert not found.unknown
    (x,) = [value for value in model.graph.inputs if not value.is_initializer()]
    probe = ir.to_proto(model)
    values = named(model)
    probe.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(key) for key in values if key not in ("y",)
    )
    feed = np.zeros(found.shapes[x], np.float32)
    assert found.shapes[x][1:] == tuple(shape_of(proto))
    for key, array in run_proto(probe, {"x": feed}).items():
        value = values[key]
        assert found.shapes[value] == array.shape
        assert found.dtypes[value].numpy() == array.dtype
        assert found.dynamic[value] == (True, *(False,) * (array.ndim - 1))  # the batch alone is free


def test_numbers_made_from_shapes_and_which_of_them_vary(make_model) -> None:
    model = make_model(FLATTENED, NUMBERS)
    found, values = concretize(model), named(model)
    n, _, h, _ = found.shapes[model.graph.inputs[0]]
    assert n != h
    np.testing.assert_array_equal(found.values[values["shape"]], [n, 3 * h * 4])
    np.testing.assert_array_equal(found.marks[values["s"]], [True, False, True, False])
    np.testing.assert_array_equal(found.marks[values["shape"]], [True, True])
    assert found.shapes[values["y"]] == (n, 12 * h)
    assert found.dynamic[values["y"]] == (True, True)
    assert found.constant(values["shape"]) is None
    assert found.constant(values["rest"]) is None
    assert found.constant(None) is None
    np.testing.assert_array_equal(found.constant(model.graph.initializers["four"]), [4])


def test_numbers_that_are_the_same_in_every_run_are_constants(make_model) -> None:
    model = make_model(FLATTENED.replace("N,3,H,4", "N,3,5,4"), NUMBERS)
    found, values = concretize(model), named(model)
    np.testing.assert_array_equal(found.constant(values["q"]), [60])
    np.testing.assert_array_equal(found.marks[values["shape"]], [True, False])
    assert found.dynamic[values["y"]] == (True, False)


def test_a_size_that_the_model_insists_on_is_found(make_model) -> None:
    """The batch must be one: with any other the constant beside it does not fit."""
    text = "g (float[N,4] x) => (float[N,6] y) { a = Concat <axis = 1> (x, w)  y = Relu(a) }"
    model = make_model(text, {"w": np.ones((1, 2), np.float32)})
    found = concretize(model)
    assert not found.unknown
    assert found.shapes[named(model)["y"]] == (1, 6)


def test_what_cannot_be_inferred_is_listed_with_the_reason(make_model) -> None:
    head = '<ir_version: 8, opset_import: ["" : 18, "com.acme" : 1]>\n'
    model = make_model(
        head
        + "g (float[N,4] x) => (float[N,4] y) {"
        + "[odd] a = com.acme.Warp(x)  [next] b = Relu(a)  y = Add(b, x) }"
    )
    found = concretize(model)
    assert {node.name for node in found.unknown if node.name in ("odd", "next")} == {"odd", "next"}
    assert named(model)["a"] not in found.shapes
    assert "a" in found.unknown[model.graph[1]]


def test_shapes_of_bodies_come_from_what_they_capture(make_model) -> None:
    model = make_model(
        """g (float[N,4] x, bool c) => (float[N,M] y) {
            h = Concat <axis = 1> (x, x)
            y = If(c) <then_branch = t () => (float[N,M] a) { a = Relu(h) },
                       else_branch = e () => (float[N,M] b) { b = Neg(h) }>
        }"""
    )
    found = concretize(model)
    n = found.shapes[model.graph.inputs[0]][0]
    assert found.shapes[named(model)["y"]] == (n, 8)


@pytest.mark.parametrize(
    ("ir_version", "listed", "optional"),
    [(8, ["w"], {"w"}), (8, ["w", "v"], set()), (8, [], set()), (3, ["w"], set())],
)
def test_defaults_of_inputs_may_be_overridden(
    make_proto, ir_version: int, listed: list[str], optional: set
) -> None:
    """Unless a file lists most of its initializers among the inputs, as old ones do."""
    text = "g (float[N,4] x) => (float[N,4] y) { a = Add(x, w)  b = Add(a, v)  y = Add(b, u) }"
    tensors = {name: np.ones(4, np.float32) for name in "wvu"}
    proto = make_proto(text, tensors, ir_version=ir_version, opset=8)
    proto.graph.input.extend(onnx.helper.make_tensor_value_info(name, 1, [4]) for name in listed)
    model = ir.from_proto(proto)
    assert {value.name for value in optional_inputs(model)} == optional
    found = concretize(model)
    for name in tensors:
        assert found.holds(model.graph.initializers[name]) == (name not in optional)


HUGE = {"a": np.array([2**41, 2**41]), "zero": np.array(0), "far": np.array(2**60), "one": np.array(1)}


@pytest.mark.parametrize(
    ("body", "known"),
    [
        ("y = ConstantOfShape(a)", None),
        ("y = Range(zero, far, one)", (2**60,)),
        ("y = Expand(one, a)", None),
        ("n = Range(zero, k, one)  m = Unsqueeze(n, u)  y = Add(n, m)", (4000, 4000)),
        ("n = Range(zero, k, one)  y = Gather(n, g)", (64, 64)),
    ],
)
def test_sizes_are_known_before_anything_is_made(make_model, body: str, known: object) -> None:
    more = {"k": np.array(4000), "u": np.array([1]), "g": np.zeros((64, 64), np.int64)}
    model = make_model(f"g () => (y) {{ {body} }}", {**HUGE, **more})
    tracemalloc.start()
    found = concretize(model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    y = model.graph.outputs[0]
    assert y not in found.values or found.values[y].size <= 4096
    assert known is None or found.shapes.get(y) in (known, None)
    assert peak < 20e6


def test_a_negative_size_is_a_failed_try(make_model) -> None:
    """The kernel is larger than the smallest size that is tried for the free axes."""
    w = np.ones((4, 3, 100, 100), np.float32)
    model = make_model("g (float[N,3,H,W] x) => (float[N,4,P,Q] y) { h = Conv(x, w)  y = Relu(h) }", {"w": w})
    found = concretize(model)
    assert not found.unknown
    assert all(min(shape) >= 0 for shape in found.shapes.values())
    small = make_model("g (float[N,3,8,8] x) => (y) { h = Conv(x, w)  y = Relu(h) }", {"w": w})
    assert small.graph[0] in concretize(small).unknown
    couple(small)


def test_sizes_of_minus_one_are_free(make_model) -> None:
    model = make_model("g (float[2,3,4,4] x) => (y) { y = Relu(x) }")
    model.graph.inputs[0].shape = ir.Shape([-1, 3, 4, 4])
    found = concretize(model)
    assert found.shapes[model.graph.outputs[0]] == (3, 3, 4, 4)
    assert found.dynamic[model.graph.inputs[0]][0]


def test_absurd_sizes_are_not_known(make_model) -> None:
    model = make_model("g (float[9223372036854775807,3] x) => (y) { y = Relu(x) }")
    assert not concretize(model).shapes
    couple(canonicalize(model))


def test_an_axis_of_a_tensor_without_elements_is_no_channel(make_model) -> None:
    w = np.zeros((2**28, 0), np.float32)
    model = make_model("g (float[N,0] x) => (y) { y = Gemm<transB=1>(x, w) }", {"w": w})
    tracemalloc.start()
    assert not couple(model).groups
    assert not couple(make_model(f"g (float[N,{2**40}] x) => (y) {{ a = Relu(x)  y = Softmax(a) }}")).groups
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_free_sides_beside_one_sample_vary_however_far_they_are_pooled(make_model) -> None:
    pools = " ".join(
        f"p{k + 1} = MaxPool <kernel_shape = [2,2], strides = [2,2], ceil_mode = 1> (p{k})" for k in range(4)
    )
    model = make_model(
        f"g (float[1,3,H,W] x) => (float[1,3,H,W] y) {{ p0 = Identity(x) {pools} s = Shape(p0) "
        "y = Resize <mode = 'nearest'> (p4, , , s) }".replace("'", '"')
    )
    found, values = concretize(model), named(model)
    assert not found.unknown
    for name in ("p1", "p2", "p3", "p4", "y"):
        assert found.dynamic[values[name]] == (False, False, True, True)
        assert found.shapes[values[name]][2] != found.shapes[values[name]][3]
