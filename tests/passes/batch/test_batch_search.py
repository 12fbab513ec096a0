"""Several ways of mending one node, one after the other, and the graph as it was at last."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.batch.batch_search import BatchSearch
from obs_onnx.passes.shapes.concrete import fitting_sizes
from obs_onnx.passes.shapes.infer_shapes import InferShapes


def opened(model: ir.Model, axis: int = 0, size: int = 1) -> BatchSearch:
    InferShapes().call(model)
    sizes = fitting_sizes(model)
    for value in model.graph.inputs:
        value.shape = ir.Shape(["batch" if k == axis else dim for k, dim in enumerate(value.shape)])
    return BatchSearch(model, "batch", size, sizes)


def test_an_axis_of_one_may_be_the_batch_anywhere_at_its_place_in_memory(make_model) -> None:
    model = make_model(
        "g (float[1,6] x) => (float[1,1,2,3] y) { y = Reshape(x, to) }", {"to": np.array([1, 1, 2, 3])}
    )
    before = ir.to_proto(model)
    search = opened(model)
    found = [(search.axes[model.graph.outputs[0]].axis, search.mended) for _ in search.solutions()]
    assert found == [(0, 1), (1, 1), (2, 1)]
    assert [node.op_type for node in model.graph] == ["Reshape"]
    assert ir.to_proto(model).graph.node == before.graph.node


def test_what_lies_behind_decides_between_two_ways(make_model) -> None:
    text = """g (float[5,1,4] x) => (float[5,1,3] y) {
        f = Reshape(x, flat) m = MatMul(f, w) y = Reshape(m, back) }"""
    numbers = {"flat": np.array([5, 4]), "back": np.array([5, 1, 3]), "w": np.ones((4, 3), np.float32)}
    search = opened(model := make_model(text, numbers), axis=1)
    next(search.solutions())
    axes = {str(value.name): (own.axis, own.before) for value, own in search.axes.items()}
    assert axes == {"x": (1, 1), "f": (0, 5), "m": (0, 5), "y": (1, 1)}
    assert search.targets.keys() == {str(node.name) for node in model.graph if node.op_type == "Reshape"}


def test_samples_that_are_summed_up_are_no_samples(make_model) -> None:
    model = make_model(
        "g (float[4,3] x) => (float[1,3] y) { y = ReduceMean <keepdims = 1> (x, zero) }",
        {"zero": np.array([0])},
    )
    assert list(opened(model, size=4).solutions()) == []


def test_a_target_that_is_computed_asks_for_the_samples(make_model) -> None:
    text = """g (float[1,6,H] x) => (float[1,2,Q] y) {
        s = Shape(x) h = Slice(s, two, three) m = Mul(h, three)
        to = Concat <axis = 0> (head, m) y = Reshape(x, to) }"""
    numbers = {"two": np.array([2]), "three": np.array([3]), "head": np.array([1, 2])}
    search = opened(model := make_model(text, numbers))
    next(search.solutions())
    assert search.axes[model.graph.outputs[0]].axis == 0
    assert "Where" in [node.op_type for node in model.graph]
