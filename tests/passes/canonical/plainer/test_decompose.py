"""Operators that hide channels, written out: the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from nets import run_proto
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from obs_onnx.passes.canonical.plainer.decompose import Decompose
from obs_onnx.passes.shapes.infer_shapes import InferShapes


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("spatial", [(5,), (4, 3)])
@pytest.mark.parametrize(("opset", "parameters"), [(18, 2), (21, 6)])
def test_group_normalization(spatial: tuple[int, ...], opset: int, parameters: int) -> None:
    """Parameters are one for each group before opset 21, and one for each channel from then on."""
    rng = np.random.default_rng(0)
    node = helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2, epsilon=0.01)
    shape = ["N", 6, *spatial]
    tensors = {name: rng.standard_normal(parameters).astype(np.float32) for name in "sb"}
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, shape)],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    x = rng.standard_normal((3, 6, *spatial)).astype(np.float32) + 2
    groups = x.reshape(3, 2, -1).astype(np.float64)
    normal = (groups - groups.mean(2, keepdims=True)) / np.sqrt(groups.var(2, keepdims=True) + 0.01)
    scale, shift = (
        np.repeat(a, 6 // parameters).reshape(1, 6, *(1,) * len(spatial)) for a in tensors.values()
    )
    expected = normal.reshape(x.shape) * scale + shift
    model = ir.from_proto(proto)
    assert Decompose().call(model).modified
    assert "GroupNormalization" not in operators(model)
    assert "InstanceNormalization" in operators(model)
    InferShapes().call(model)
    after = ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    (y,) = ReferenceEvaluator(after).run(None, {"x": x})
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert not Decompose().call(model).modified


X = np.arange(24, dtype=np.float32).reshape(2, 6, 2)


def split(make_model, split: str, places: list[int], opset: int = 18, keepdims: int = 1) -> ir.Model:
    """Parts of the second axis of ``X``, added up."""
    taken = " ".join(f"p{i} = SequenceAt(s, i{i})" for i, place in enumerate(places))
    shape = "2,A,2" if keepdims or split else "2,2"
    outputs = ", ".join(f"float[{shape}] y{i}" for i in range(len(places)))
    copies = " ".join(f"y{i} = Relu(p{i})" for i in range(len(places)))
    return make_model(
        f"g (float[2,6,2] x) => ({outputs}) {{"
        f" s = SplitToSequence <axis = 1, keepdims = {keepdims}> (x{split}) {taken} {copies} }}",
        {
            "one": np.array(4),
            "many": np.array([1, 3, 2]),
            **{f"i{i}": np.array(place) for i, place in enumerate(places)},
        },
        opset=opset,
    )


@pytest.mark.parametrize(
    ("how", "places", "keepdims", "expected"),
    [
        (", many", [0, 2, 1], 1, [X[:, :1], X[:, 4:], X[:, 1:4]]),
        (", one", [1, 0], 1, [X[:, 4:], X[:, :4]]),
        ("", [5, 0], 1, [X[:, 5:], X[:, :1]]),
        ("", [5, 0], 0, [X[:, 5], X[:, 0]]),
        (", many", [-1, 0], 1, [X[:, 4:], X[:, :1]]),
        (", many", [1, 1], 1, [X[:, 1:4], X[:, 1:4]]),
    ],
)
@pytest.mark.parametrize("opset", [11, 12, 13, 18])
def test_split_to_sequence(make_model, how, places, keepdims, expected, opset) -> None:
    model = split(make_model, how, places, opset, keepdims)
    assert Decompose().call(model).modified
    assert {"SplitToSequence", "SequenceAt"}.isdisjoint(operators(model))
    onnx.checker.check_model(ir.to_proto(model))
    for name, array in zip(sorted(found := run_proto(ir.to_proto(model), {"x": X})), expected, strict=True):
        np.testing.assert_array_equal(found[name], array)


def test_sequences_that_are_used_otherwise_stay(make_model) -> None:
    text = """g (float[2,6,2] x, int64 at) => (float[2,A,2] y) {
        s = SplitToSequence <axis = 1> (x, many)  a = SequenceAt(s, zero)  b = SequenceAt(s, at)
        y = Concat <axis = 1> (a, b)
    }"""
    model = make_model(text, {"many": np.array([1, 3, 2]), "zero": np.array(0)})
    before = operators(model)
    assert not Decompose().call(model).modified  # the place is known at run time only
    assert operators(model) == before
