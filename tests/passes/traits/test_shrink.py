"""Operands and attributes that restate sizes, after elements have gone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from nets import build_model, run_proto

from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.shapes.concrete import concretize
from obs_onnx.passes.shapes.infer_shapes import InferShapes
from obs_onnx.passes.traits.shrink import Shrink

TEXT = """g (float[N,6,L] x) => (float[A,B,C] y) {
    s = Shape(x)  n = Slice(s, zero, one)  r = Concat <axis = 0> (n, half, minus)  y = Reshape(x, r)
}"""
NUMBERS = {"zero": np.array([0]), "one": np.array([1]), "half": np.array([3]), "minus": np.array([-1])}


def shrinking(text: str = TEXT, numbers=NUMBERS, op_type: str = "Reshape") -> tuple[ir.Model, Shrink]:
    """A model, and what its node of a type may do; of an axis, every other element stays."""
    model = ir.from_proto(build_model(text, numbers))
    InferShapes().call(model)
    node = next(node for node in model.graph if node.op_type == op_type)
    found = Shrink(Names(model), node, concretize(model), lambda labels: np.arange(len(labels)) % 2 == 0)
    return model, found


def test_counts_of_what_stays() -> None:
    _, shrink = shrinking()
    axes = [np.zeros((n, 1), np.int32) for n in (1, 5, 4)]
    assert shrink.shape(axes) == (1, 3, 2)
    assert [shrink.changed(labels) for labels in axes] == [False, True, True]


@pytest.mark.parametrize(("value", "kind"), [(3, "INT"), (0.5, "FLOAT"), ((1, 2), "INTS")])
def test_attributes_of_all_types(value, kind: str) -> None:
    _, shrink = shrinking()
    shrink.attribute("a", value)
    found = shrink.node.attributes["a"]
    assert found.type.name == kind
    assert found.value == value


class TestOperand:
    """The shape that a Reshape gets is (N, 3, -1), and N is free."""

    def run(self, model: ir.Model, *shape: int) -> tuple[int, ...]:
        for output in model.graph.outputs:
            output.shape = None
        x = np.zeros(shape, np.float32)
        return run_proto(ir.to_proto(model), {"x": x})["y"].shape

    def test_an_element_that_varies_is_scaled_and_one_that_does_not_replaced(self) -> None:
        model, shrink = shrinking()
        n = int(shrink.dense(1)[0])
        shrink.operand(1, np.array([2 * n, 2, -1]))
        assert self.run(model, 5, 6, 4) == (10, 2, 6)
        assert self.run(model, 1, 6, 2) == (2, 2, 3)

    def test_the_only_one_that_varies_may_be_left_to_reshape(self) -> None:
        _, shrink = shrinking(numbers={**NUMBERS, "minus": np.array([4])})
        n = int(shrink.dense(1)[0])
        shrink.operand(1, np.array([n, 2, 3]), one_free=True)
        np.testing.assert_array_equal(shrink.node.inputs[1].const_value.numpy(), [-1, 2, 3])

    def test_a_constant_is_replaced_by_another_and_others_may_go_on_reading_it(self) -> None:
        text = "g (float[N,6] x) => (float[A,B] y, int64[2] k) { y = Reshape(x, r)  k = Neg(r) }"
        model, shrink = shrinking(text, {"r": np.array([-1, 3])})
        shrink.operand(1, np.array([-1, 2]))
        assert self.run(model, 2, 6) == (6, 2)
        np.testing.assert_array_equal(model.graph.initializers["r"].const_value.numpy(), [-1, 3])

    def test_what_is_right_stays(self) -> None:
        _, shrink = shrinking()
        before = shrink.node.inputs[1]
        shrink.operand(1, shrink.dense(1))
        assert shrink.node.inputs[1] is before

    def test_an_operand_that_is_absent_is_added(self) -> None:
        text = (
            "g (float[6,4] x) => (float[A,B] y) { y, z = Split <axis = 0, num_outputs = 2> (x) w = Neg(z) }"
        )
        _, shrink = shrinking(text, {}, "Split")
        shrink.operand(1, np.array([2, 4]))
        np.testing.assert_array_equal(shrink.node.inputs[1].const_value.numpy(), [2, 4])


@pytest.mark.parametrize(("now", "wanted"), [(6, 4), (12, 3), (7, 7), (5, 10), (9, 7)])
def test_scaling_is_by_whole_numbers(now: int, wanted: int) -> None:
    """wanted / now as a multiplication and a division, in this order."""
    model, shrink = shrinking()
    value = model.graph[1].outputs[0]
    found = shrink.turned(value, np.array([now]), np.array([wanted]), np.array([True]), [])
    model.graph.outputs.append(found)
    for value in model.graph.outputs:
        value.shape = None
    for times in (1, 2, 5):
        x = np.zeros((times * now, 6, 1), np.float32)
        assert run_proto(ir.to_proto(model), {"x": x})[found.name].tolist() == [times * wanted]


def test_an_axis_of_a_constant_number_and_others_keeps_its_difference() -> None:
    """Two of five that may go are gone, whatever number of others there is."""
    model, shrink = shrinking()
    value = model.graph[1].outputs[0]
    labels = np.array([[a] for a in (1, 2, 3, 4, 5, *[0] * 13)], np.int32)
    found = shrink.turned(value, np.array([18]), np.array([16]), np.array([True]), [labels])
    model.graph.outputs.append(found)
    for value in model.graph.outputs:
        value.shape = None
    for others in (1, 13, 40):
        x = np.zeros((5 + others, 6, 1), np.float32)
        assert run_proto(ir.to_proto(model), {"x": x})[found.name].tolist() == [3 + others]


def test_gather_and_replace() -> None:
    text = "g (float[N,6] x) => (float[A,B] y) { h = Neg(x)  y = Relu(h) }"
    model, shrink = shrinking(text, {}, "Relu")
    shrink.gather(0, 1, np.array([0, 5]))
    picked = shrink.node.inputs[0]
    shrink.replace(picked)
    assert [node.op_type for node in model.graph] == ["Neg", "Gather"]
    model.graph.outputs[0].shape = None
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    np.testing.assert_array_equal(run_proto(ir.to_proto(model), {"x": x})["y"], -x[:, [0, 5]])
