"""What the records of operators say by flags and positions, held against ONNX itself."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from obs_onnx.passes.ops import TABLE

STANDARD = {name: op for name, op in TABLE.items() if onnx.defs.has(name)}
OPERANDS = {"Reshape": [[-1]], "Squeeze": [[0]], "Unsqueeze": [[0]]}


def run(name: str, x: np.ndarray, operands: list[np.ndarray]) -> np.ndarray:
    names = [f"p{i}" for i in range(len(operands))]
    node = helper.make_node(name, ["x", *names], ["y"])
    inputs = [
        helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for key, array in zip(["x", *names], [x, *operands], strict=True)
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    (found,) = ReferenceEvaluator(model).run(None, {"x": x, **dict(zip(names, operands, strict=True))})
    return found


@pytest.mark.parametrize("name", [name for name, op in STANDARD.items() if op.idempotent])
def test_an_idempotent_operator_changes_nothing_the_second_time(name: str) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32) * 3
    bounds = [np.float32(-0.5), np.float32(1.5)] if name == "Clip" else []
    once = run(name, x, [np.asarray(bound) for bound in bounds])
    assert not np.array_equal(once, x)
    assert np.array_equal(run(name, once, [np.asarray(bound) for bound in bounds]), once)


@pytest.mark.parametrize("name", [name for name, op in STANDARD.items() if op.view])
def test_a_view_holds_the_elements_of_its_input_in_their_order(name: str) -> None:
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    found = run(name, x, [np.array(operand, np.int64) for operand in OPERANDS.get(name, [])])
    assert found.tobytes() == x.tobytes()


@pytest.mark.parametrize("name", [name for name, op in STANDARD.items() if op.shape_only])
def test_values_do_not_matter_where_only_shapes_do(name: str) -> None:
    x = np.zeros((2, 3), np.float32)
    assert np.array_equal(run(name, x, []), run(name, x + 1, []))


@pytest.mark.parametrize("name", [n for n, op in STANDARD.items() if op.learnt or op.weights or op.biases])
def test_positions_of_parameters_are_inputs_of_floating_point_type(name: str) -> None:
    op, schema = STANDARD[name], onnx.defs.get_schema(name)
    for index in (*op.weights, *op.biases, *op.learnt):
        assert "tensor(float)" in schema.inputs[index].types
    assert not set(op.learnt) & {*op.weights, *op.biases}


@pytest.mark.parametrize("name", [n for n, op in STANDARD.items() if op.differentiable_inputs is not None])
def test_inputs_without_gradients_come_behind_those_with(name: str) -> None:
    count = STANDARD[name].differentiable_inputs
    category = onnx.defs.OpSchema.DifferentiationCategory
    found = [one.differentiation_category for one in onnx.defs.get_schema(name).inputs]
    assert count is not None
    assert category.Differentiable in found[:count]
    assert category.Differentiable not in found[count:]
