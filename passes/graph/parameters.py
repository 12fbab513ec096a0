"""Parameters of a model: its constants of floating-point type, wherever they are stored."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

__all__ = ["SPARSE", "float_tensors", "hold_small"]

SPARSE = "sparse"
"""Key in ``Value.meta``: the file of the model stores this initializer as a sparse tensor."""


def float_tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Floating-point initializers and Constant nodes, those of bodies and local functions included."""
    owners = [model.graph, *(function.graph for function in model.functions.values())]
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype.is_floating_point():
                yield value.const_value
    for node in (node for owner in owners for node in owner.all_nodes()):
        attribute = node.attributes.get("value") if node.op_type == "Constant" else None
        if attribute is None or attribute.is_ref() or attribute.type != ir.AttributeType.TENSOR:
            continue
        if attribute.as_tensor().dtype.is_floating_point():
            yield attribute.as_tensor()


def hold_small(model: ir.Model, most: int) -> None:
    """Hold what initializers of up to ``most`` bytes have in files: axes and sizes, which inference reads."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes <= most:
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
