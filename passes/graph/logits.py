"""Where the class scores of a model are: before a softmax at its end."""

from __future__ import annotations

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts

__all__ = ["logits_of"]


def logits_of(output: ir.Value) -> ir.Value:
    """The value whose softmax ``output`` is, or ``output`` itself; losses apply a softmax of their own."""
    node = output.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        output, node = node.inputs[0], node.inputs[0].producer()
    if node is None or node.op_type != "Softmax" or node.domain != "" or node.inputs[0] is None:
        return output
    dims = node_facts.dims(output)
    if dims is None:
        return output
    default = -1 if int(node.graph.opset_imports.get("", 13)) >= 13 else 1  # type: ignore[union-attr]
    axis = node_facts.int_attribute(node, "axis", default) % len(dims)
    return node.inputs[0] if axis == 1 and (default == -1 or len(dims) == 2) else output
