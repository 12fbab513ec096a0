"""Convolutions as one product: the same outputs and gradients under the same names, and only where few."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
from float64 import evaluator
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from obs_onnx.passes.autodiff.lower_convolutions import LowerConvolutions
from obs_onnx.passes.autodiff.optimizers import SGD
from obs_onnx.passes.autodiff.training_step import Term, training_step
from obs_onnx.passes.canonical.canonicalize import canonicalize


def network(x, w, bias=True, opset=18, **attributes):
    """A convolution whose output is an output and goes on into a Relu, of a batch of any size."""
    rng = np.random.default_rng(3)
    held = {"w": rng.standard_normal(w), **({"b": rng.standard_normal(w[0])} if bias else {})}
    nodes = [
        helper.make_node("Conv", ["x", *held], ["y"], name="conv", **attributes),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    graph = helper.make_graph(
        nodes,
        "conv",
        [helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, ["N", *x])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, None) for name in "yz"],
        [numpy_helper.from_array(array, name) for name, array in held.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def lowered(proto):
    model = canonicalize(ir.from_proto(proto))
    modified = LowerConvolutions()(model).modified
    assert modified == ("Conv" not in {node.op_type for node in model.graph})
    return model, modified


def assert_same(proto, model, *shape):
    x = np.random.default_rng(4).standard_normal(shape)
    expected, found = (evaluator(p).run(None, {"x": x}) for p in (proto, ir.to_proto(model)))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)


@st.composite
def convolutions(draw):
    n = draw(st.integers(1, 3))
    lengths = [draw(st.integers(1, 4)) for _ in range(n)]
    kernel = [draw(st.integers(1, 3)) for _ in range(n)]
    attributes = {
        "dilations": [draw(st.integers(1, 2)) for _ in range(n)],
        "strides": [draw(st.integers(1, 3)) for _ in range(n)],
    }
    if draw(st.booleans()):
        attributes["auto_pad"] = draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER"]))
        assume(max(attributes["dilations"]) == 1)
    else:
        attributes["pads"] = pads = [draw(st.integers(0, 2)) for _ in range(2 * n)]
        for i, d in enumerate(attributes["dilations"]):
            assume(lengths[i] + pads[i] + pads[n + i] > (kernel[i] - 1) * d)
    return (2, *lengths), (draw(st.sampled_from([4, 16, 70])), 2, *kernel), attributes


@settings(max_examples=80, deadline=None, derandomize=True)
@given(convolutions(), st.booleans(), st.sampled_from([11, 13, 18]), st.integers(1, 3))
def test_outputs_stay_the_same(case, bias, opset, batch):
    x, w, attributes = case
    proto = network(x, w, bias, opset, **attributes)
    model, modified = lowered(proto)
    assert_same(proto, model, batch, *x)
    (y,) = evaluator(proto).run(["y"], {"x": np.zeros((1, *x))})
    positions, offsets = math.prod(y.shape[2:]), math.prod(w[2:])
    assert modified == (positions <= offsets > 1 and math.prod(x[1:]) <= w[0])


def test_other_convolutions_are_left_alone():
    many = network((2, 8, 8), (70, 2, 3, 3), pads=[1, 1, 1, 1])
    grouped = network((4, 2, 2), (8, 2, 3, 3), pads=[1, 1, 1, 1], group=2)
    pointwise = network((2, 1, 1), (8, 2, 1, 1))
    assert not any(lowered(proto)[1] for proto in (many, grouped, pointwise))


def test_a_step_of_training_uses_the_product_and_has_the_gradient_of_the_convolution():
    proto = network((3, 2, 2), (8, 3, 3, 3), pads=[1, 1, 1, 1])
    model = canonicalize(ir.from_proto(proto))
    rng = np.random.default_rng(5)
    x, target = rng.standard_normal((5, 3, 2, 2)), rng.standard_normal((5, 8, 2, 2))
    step = training_step(model, [Term("mse", "z", "target")], ["w", "b"], SGD(momentum=0.0))
    assert "Conv" not in {node.op_type for node in step.model.graph}
    start = {name: model.graph.initializers[name].const_value.numpy() for name in ("w", "b")}
    slots = {slot: np.zeros_like(start[name]) for slot, name in step.slots.items()}
    scalars = {name: np.array(1.0) for name in step.scalars.values()}
    names = [*step.carried]
    session = evaluator(ir.to_proto(step.model))
    found = dict(
        zip(names, session.run(names, {"x": x, "target": target, **start, **slots, **scalars}), strict=True)
    )

    def loss(**weights):
        copy = onnx.ModelProto.FromString(proto.SerializeToString())
        for tensor in copy.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
        return ((evaluator(copy).run(["z"], {"x": x})[0] - target) ** 2).mean()

    for output, name in step.carried.items():
        if name not in start:
            continue
        moved, along, h = start[name] - found[output], rng.standard_normal(start[name].shape), 1e-6
        up, down = (loss(**{**start, name: start[name] + s * h * along}) for s in (1, -1))
        assert abs((up - down) / (2 * h) - (moved * along).sum()) < 1e-7
