"""New nodes in front of an old one and behind it, and values that take the place of others."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.graph.writer import Writer, append, take_over

TEXT = """g (float[N,4] x) => (float[N,4] y, float[N,4] z) {
    [one] h = Relu(x)  [two] y = Neg(h)  [three] z = Exp(h)
}"""
X = np.array([[1, -2, 3, 0]], np.float32)


@pytest.fixture
def model(make_model) -> ir.Model:
    return make_model(TEXT)


def test_nodes_in_front_are_typed_and_named_after_the_node(model: ir.Model) -> None:
    two = model.graph.node("two")
    two.inputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    write = Writer(Names(model), two)
    constant = write.constant(np.array([2.0]), ir.DataType.FLOAT16)
    assert constant.const_value.dtype == ir.DataType.FLOAT16
    doubled = write.op("Mul", [two.inputs[0], write.constant(np.array([2], np.float32))])
    shape = write.op("Shape", [doubled])
    assert [node.op_type for node in model.graph] == ["Relu", "Mul", "Shape", "Neg", "Exp"]
    assert doubled.producer().name == "two.Mul"
    assert (doubled.dtype, shape.dtype) == (ir.DataType.FLOAT, ir.DataType.INT64)
    condition = ir.Value(name="c", type=ir.TensorType(ir.DataType.BOOL))
    assert write.op("Where", [condition, doubled, doubled]).dtype == ir.DataType.FLOAT
    assert write.op("Neg", [ir.Value(name="of any type")]).dtype is None
    fused = write.op("FastGelu", [doubled], domain="com.microsoft").producer()
    assert (fused.domain, fused.op_type) == ("com.microsoft", "FastGelu")


def test_nodes_behind_follow_one_another(model: ir.Model) -> None:
    two = model.graph.node("two")
    write = Writer(Names(model), two)
    first = write.op("Abs", [two.outputs[0]], behind=True)
    write.op("Sqrt", [first], behind=True)
    assert [node.op_type for node in model.graph] == ["Relu", "Neg", "Abs", "Sqrt", "Exp"]


def test_several_outputs(model: ir.Model) -> None:
    two = model.graph.node("two")
    parts = Writer(Names(model), two).ops("Split", [two.inputs[0]], ir.AttrInt64("num_outputs", 2), outputs=2)
    assert len({part.name for part in parts}) == len(parts) == 2


def test_what_takes_over_serves_all_users_but_is_not_fed_with_itself(model: ir.Model, run_model) -> None:
    h = model.graph.node("one").outputs[0]
    write = Writer(Names(model), model.graph.node("one"))
    plus = write.op("Add", [h, write.constant(np.array([5], np.float32))], behind=True)
    append(write.names, h, write.op("Sqrt", [plus], behind=True))
    found = run_model(model, {"x": X})
    expected = np.sqrt(np.maximum(X, 0) + 5)
    np.testing.assert_allclose(found["y"], -expected, rtol=1e-6)
    np.testing.assert_allclose(found["z"], np.exp(expected), rtol=1e-6)


def test_an_output_of_the_model_keeps_its_name_and_shape(model: ir.Model, run_model) -> None:
    two = model.graph.node("two")
    y = two.outputs[0]
    write = Writer(Names(model), two)
    take_over(write.names, y, write.op("Abs", [two.inputs[0]]))
    model.graph.remove(two, safe=True)
    new = model.graph.outputs[0]
    assert (new.name, new.shape) == ("y", ir.Shape(["N", 4]))
    assert y.name == "y.replaced"
    np.testing.assert_array_equal(run_model(model, {"x": X})["y"], np.maximum(X, 0))


def test_a_value_inside_keeps_its_name_too(model: ir.Model) -> None:
    """What is computed otherwise from now on is found under the name it had."""
    one = model.graph.node("one")
    h, write = one.outputs[0], Writer(Names(model), one)
    new = write.op("Abs", [one.inputs[0]])
    take_over(write.names, h, new)
    assert (new.name, h.name) == ("h", "h.replaced")
    assert [node.inputs[0].name for node in model.graph if node.op_type in ("Neg", "Exp")] == ["h", "h"]


def test_what_is_appended_twice_has_names_of_its_own(model: ir.Model) -> None:
    one = model.graph.node("one")
    h, names = one.outputs[0], Names(model)
    for op_type in ("Abs", "Sqrt"):
        append(names, h, Writer(names, one).op(op_type, [h], behind=True))
    outputs = [value.name for node in model.graph for value in node.outputs]
    assert len(set(outputs)) == len(outputs)
    assert model.graph.node("two").inputs[0].name == "h"
