"""Inputs that have to be fed."""

import onnx
import onnx_ir as ir

from obs_onnx.passes.graph.inputs import input_names, real_inputs


def test_initializers_that_are_listed_as_inputs_are_not_fed() -> None:
    """Before IR version 4 every initializer is an input as well."""
    text = """
    <ir_version: 3, opset_import: ["": 9]>
    g (float[2] x, float[2] w, float[2] z) => (float[2] y)
    <float[2] w = {1, 2}>
    {
        u = Mul(x, w)
        y = Add(u, z)
    }
    """
    model = ir.from_proto(onnx.parser.parse_model(text))
    assert len(model.graph.inputs) == 3
    assert input_names(model) == ["x", "z"]
    assert real_inputs(model) == [model.graph.inputs[0], model.graph.inputs[2]]
