"""Arithmetic on shapes against ONNX's own reference, and marks on what depends on marked elements."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from obs_onnx.passes.shapes.shape_arithmetic import COMPUTES, MOVES, OTHERS, evaluate

A = np.array([7, -7, 12, 5])
B = np.array([2, 2, -5, 3])
F = np.array([0.5, -1.25, 4.0, 9.0], np.float32)
GRID = np.arange(6).reshape(2, 3)
TRUE = np.array([True, False, True, False])
CASES = [
    ("Identity", [A], {}),
    ("Div", [np.array([2**53 + 1, -(2**62) - 3]), np.array([1, 2])], {}),
    ("Slice", [A, [1], [3]], {}),
    ("Slice", [A, [-3], [2**62], [0], [2]], {}),
    ("Slice", [A, [-1], [-(2**62)], [0], [-1]], {}),
    ("Slice", [GRID, [0, 1], [1, 3], [0, -1]], {}),
    ("Reshape", [GRID, [3, -1]], {}),
    ("Reshape", [GRID, [0, 1, 3]], {}),
    ("Squeeze", [GRID[:, :1], [1]], {}),
    ("Squeeze", [GRID[:1, :1]], {}),
    ("Unsqueeze", [A, [0, 2]], {}),
    ("Concat", [A, B], {"axis": 0}),
    ("Gather", [A, np.array([0, -1])], {"axis": 0}),
    ("Gather", [GRID, np.array(1)], {"axis": 1}),
    ("Expand", [GRID[:, :1], [2, 2, 4]], {}),
    ("Flatten", [GRID[None]], {}),
    ("Flatten", [GRID[None]], {"axis": 2}),
    ("Flatten", [GRID], {"axis": 0}),
    ("Flatten", [GRID[None]], {"axis": -1}),
    ("Transpose", [GRID], {}),
    ("Transpose", [GRID[None]], {"perm": [1, 2, 0]}),
    *((name, [A, B], {}) for name in ("Add", "Sub", "Mul", "Div", "Mod", "Equal", "Greater", "Less")),
    *((name, [A, np.array(5)], {}) for name in ("GreaterOrEqual", "LessOrEqual")),
    ("Div", [F, np.float32(4)], {}),
    ("Mod", [A, B], {"fmod": 1}),
    ("Pow", [A, np.array(2)], {}),
    ("Min", [A, B, np.array(1)], {}),
    ("Max", [A, np.array(6)], {}),
    *((name, [F], {}) for name in ("Neg", "Abs", "Floor", "Ceil", "Reciprocal")),
    ("Sqrt", [np.abs(F)], {}),
    ("Cast", [F], {"to": onnx.TensorProto.INT64}),
    ("And", [TRUE, ~TRUE], {}),
    ("Or", [TRUE, ~TRUE], {}),
    ("Not", [TRUE], {}),
    ("Where", [TRUE, A, B], {}),
    ("Range", [np.array(2), np.array(11), np.array(3)], {}),
    ("ConstantOfShape", [[2, 3]], {}),
    ("ConstantOfShape", [[2]], {"value": helper.make_tensor("v", onnx.TensorProto.INT64, [1], [7])}),
    ("ReduceProd", [GRID], {"keepdims": 0}),
    ("ReduceProd", [GRID + 1, [1]], {}),
]


def one_node(op_type: str, inputs: list[np.ndarray], attributes: dict) -> tuple[ir.Node, np.ndarray]:
    """The node, and what ONNX's reference computes."""
    names = [f"x{i}" for i in range(len(inputs))]
    proto = helper.make_node(op_type, names, ["y"], **attributes)
    types = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(names, inputs, strict=True)
    ]
    graph = helper.make_graph([proto], "g", types, [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    (expected,) = ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))
    return ir.from_proto(model).graph[0], np.asarray(expected)


@pytest.mark.parametrize(("op_type", "inputs", "attributes"), CASES)
def test_values_are_those_of_onnx(op_type: str, inputs: list, attributes: dict) -> None:
    inputs = [np.asarray(x) for x in inputs]
    node, expected = one_node(op_type, inputs, attributes)
    value, marks = evaluate(node, inputs, [np.zeros(x.shape, bool) for x in inputs])
    np.testing.assert_array_equal(value, expected)
    assert value.dtype == expected.dtype
    assert marks.shape == value.shape
    assert not marks.any()


def test_every_operator_of_the_tables_has_a_case() -> None:
    assert {name for name, _, _ in CASES} == {*MOVES, *COMPUTES, *OTHERS}


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"),
    [case for case in CASES if case[0] not in ("Range", "ConstantOfShape")],
)
def test_marked_are_the_elements_that_move_with_a_marked_one(
    op_type: str, inputs: list, attributes: dict
) -> None:
    """No element without a mark changes when a marked element of the first input does."""
    inputs = [np.asarray(x) for x in inputs]
    node, _ = one_node(op_type, inputs, attributes)
    for place in range(inputs[0].size):
        marks = [np.zeros(x.shape, bool) for x in inputs]
        marks[0].reshape(-1)[place] = True
        value, found = evaluate(node, inputs, marks)
        changed = inputs[0].copy()
        flat = changed.reshape(-1)
        flat[place] = ~flat[place] if changed.dtype == bool else flat[place] + 3
        other, _ = evaluate(node, [changed, *inputs[1:]], marks)
        assert not (value != other)[~found].any()
        if op_type in MOVES:
            assert found.sum() == (value != other).sum()


def test_a_marked_shape_marks_all_that_is_made_from_it() -> None:
    node, _ = one_node("ConstantOfShape", [np.array([2, 3])], {})
    _, marks = evaluate(node, [np.array([2, 3])], [np.array([False, True])])
    assert marks.all()
    node, _ = one_node("Gather", [A, np.array([0, 1])], {"axis": 0})
    _, marks = evaluate(node, [A, np.array([0, 1])], [np.zeros(4, bool), np.array([True, False])])
    assert marks.all()


def test_slices_and_axes_as_attributes() -> None:
    old = ir.node("Slice", [], {"starts": [1], "ends": [3], "axes": [1]})
    value, _ = evaluate(old, [GRID], [np.zeros((2, 3), bool)])
    np.testing.assert_array_equal(value, GRID[:, 1:3])
    value, _ = evaluate(ir.node("Unsqueeze", [], {"axes": [0]}), [A], [np.zeros(4, bool)])
    assert value.shape == (1, 4)


def test_an_operator_that_is_no_shape_arithmetic_is_not_known() -> None:
    assert evaluate(ir.node("Conv", []), [A], [np.zeros(4, bool)]) is None
