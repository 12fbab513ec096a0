"""Nodes computed one after the other, and values that are never made because they would be too large."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from onnx import helper

from obs_onnx.passes.shapes.evaluate_nodes import evaluate_nodes

OPSET = {"": 18}
X = np.arange(6, dtype=np.float32).reshape(2, 3) - 2


def test_all_values_are_those_of_numpy() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"]),
        helper.make_node("MatMul", ["x", "t"], ["m"]),
        helper.make_node("Split", ["m"], ["left", "right"], axis=1, num_outputs=2),
        helper.make_node("Clip", ["x", "", "top"], ["c"]),  # the lower bound is left out
    ]
    found = evaluate_nodes(nodes, {"x": X, "top": np.float32(1)}, OPSET, 9)
    product = X @ X.T
    expected = {"x": X, "top": np.float32(1), "t": X.T, "m": product, "c": np.minimum(X, 1)}
    expected |= {"left": product[:, :1], "right": product[:, 1:]}
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_feeds_stay_as_they_are() -> None:
    feeds = {"x": X}
    evaluate_nodes([helper.make_node("Neg", ["x"], ["y"])], feeds, OPSET, 6)
    assert set(feeds) == {"x"}


def test_a_node_means_what_it_does_in_its_opset() -> None:
    """How axes are given: as an attribute, and since opset 13 as an operand."""
    old = helper.make_node("Squeeze", ["x"], ["y"], axes=[1])
    assert evaluate_nodes([old], {"x": X[:, :1]}, {"": 11}, 2)["y"].shape == (2,)
    new = helper.make_node("Squeeze", ["x", "axes"], ["y"])
    feeds = {"x": X[:, :1], "axes": np.array([1])}
    assert evaluate_nodes([new], feeds, {"": 13}, 2)["y"].shape == (2,)


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax", "Hardmax"])
def test_what_another_version_meant_otherwise_is_not_computed(op_type: str) -> None:
    """Up to version 11 ``axis`` was the first of all axes that are taken; the evaluator takes one."""
    node = helper.make_node(op_type, ["x"], ["y"], axis=1)
    with pytest.raises(ValueError, match=f"{op_type} of version 11 is another operator"):
        evaluate_nodes([node], {"x": X}, {"": 12}, 64)
    assert evaluate_nodes([node], {"x": X}, {"": 13}, 64)["y"].shape == X.shape


def test_the_largest_size_is_allowed_and_one_more_is_not() -> None:
    node = helper.make_node("Expand", ["x", "shape"], ["y"])
    feeds = {"x": X[:1], "shape": np.array([4, 3])}
    assert evaluate_nodes([node], feeds, OPSET, 12)["y"].shape == (4, 3)
    with pytest.raises(ValueError, match=r"y would have the shape \[4, 3\]"):
        evaluate_nodes([node], feeds, OPSET, 11)


@pytest.mark.parametrize(
    ("op_type", "shapes"),
    [("ConstantOfShape", [[40000, 40000]]), ("Expand", [[40000, 40000]]), ("Tile", [[10**5, 10**5]])],
)
def test_what_is_too_large_is_never_made(op_type: str, shapes: list) -> None:
    operands = [np.ones((1, 1), np.float32)][: op_type != "ConstantOfShape"] + [np.array(s) for s in shapes]
    feeds = {f"x{i}": array for i, array in enumerate(operands)}
    nodes = [helper.make_node(op_type, list(feeds), ["y"]), helper.make_node("Neg", ["y"], ["z"])]
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="y would have the shape"):
            evaluate_nodes(nodes, feeds, OPSET, 10**6)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_a_node_that_cannot_be_computed_fails() -> None:
    with pytest.raises(Exception, match="Warp"):
        evaluate_nodes([helper.make_node("Warp", ["x"], ["y"])], {"x": X}, OPSET, 6)
    with pytest.raises(Exception, match="ncompatible"):
        evaluate_nodes([helper.make_node("MatMul", ["x", "x"], ["y"])], {"x": X}, OPSET, 6)
