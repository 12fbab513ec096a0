"""A copy in float32 of a model in bfloat16, for runtimes without kernels for that type."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph.set_weights import STORED

__all__ = ["Upcast", "uses_bfloat16"]


def uses_bfloat16(model: ir.Model) -> bool:
    """Whether an initializer, input or output is of type bfloat16."""
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    values += [*model.graph.inputs, *model.graph.outputs]
    return any(value.dtype == ir.DataType.BFLOAT16 for value in values)


class Upcast(ir.passes.InPlacePass):
    """Turn bfloat16 into float32 everywhere.

    1. Initializers and tensor attributes hold the same numbers in float32: every bfloat16 is one. New values
       that SetWeights gives to initializers will be rounded to bfloat16.
    2. Inputs, outputs and intermediate values are declared float32.
    3. Integer attributes that name the type (``to`` of Cast, ``dtype`` ...) name float32.

    The result computes with more digits than the model; its weights are the same.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        for graph in model.graphs():
            for value in (*graph.inputs, *graph.initializers.values()):
                self._value(value)
            for node in graph:
                for value in node.outputs:
                    self._value(value)
                for name, attribute in list(node.attributes.items()):
                    changed = self._attribute(name, attribute)
                    if changed is not None:
                        node.attributes[name] = changed
        return ir.passes.PassResult(model, modified=True)

    def _value(self, value: ir.Value) -> None:
        if value.const_value is not None and value.const_value.dtype == ir.DataType.BFLOAT16:
            value.const_value = _float32(value.const_value)
            value.meta[STORED] = ir.DataType.BFLOAT16
        if value.dtype == ir.DataType.BFLOAT16:
            value.type = ir.TensorType(ir.DataType.FLOAT)  # a clone may share the old object

    def _attribute(self, name: str, attribute: ir.Attr) -> ir.Attr | None:
        if attribute.is_ref():
            return None
        if attribute.type == ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            return ir.AttrTensor(name, _float32(tensor)) if tensor.dtype == ir.DataType.BFLOAT16 else None
        names_a_type = name == "to" or "dtype" in name
        if names_a_type and attribute.type == ir.AttributeType.INT:
            return (
                ir.AttrInt64(name, ir.DataType.FLOAT) if attribute.as_int() == ir.DataType.BFLOAT16 else None
            )
        return None


def _float32(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.Tensor(tensor.numpy().astype(np.float32), name=tensor.name)
