"""Where the class scores of a model are: before a softmax at its end."""

from __future__ import annotations

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts

__all__ = ["holds_class_numbers", "logits_of", "softmax_axis"]

_CARRIES = ("Cast", "Identity", "Transpose")
_VIEWS = ("Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def logits_of(output: ir.Value) -> ir.Value:
    """The value whose softmax ``output`` is, or ``output`` itself; losses apply a softmax of their own."""
    node = output.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        output, node = node.inputs[0], node.inputs[0].producer()
    if node is None or node.op_type != "Softmax" or node.inputs[0] is None:
        return output
    return node.inputs[0] if _axis(node, _rank(output)) == 1 else output


def softmax_axis(output: ir.Value) -> int | None:
    """The axis of an output along which a softmax (or its logarithm) at the model's end runs, if one does."""
    node, order, rank = output.producer(), None, _rank(output)
    while node is not None and node.op_type in _CARRIES and node.inputs[0] is not None:
        if node.op_type == "Transpose" and rank is not None:
            given = node.attributes.get("perm")
            perm = list(range(rank))[::-1] if given is None else list(given.as_ints())
            order = perm if order is None else [perm[axis] for axis in order]
        output, node = node.inputs[0], node.inputs[0].producer()
        rank = _rank(output) if rank is None else rank
    if node is None or node.op_type not in ("Softmax", "LogSoftmax"):
        return None
    axis = _axis(node, rank)
    return axis if axis is None or order is None else order.index(axis)


def holds_class_numbers(output: ir.Value) -> bool:
    """Whether an output is where the largest of some scores lies, as ArgMax says it."""
    node = output.producer()
    while node is not None and node.op_type in _VIEWS and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type == "ArgMax"


def _rank(value: ir.Value) -> int | None:
    dims = node_facts.dims(value)
    return None if dims is None else len(dims)


def _axis(node: ir.Node, rank: int | None) -> int | None:
    """The one axis that a softmax runs along; None for another operator, several axes, or an unknown rank."""
    if node.domain != "" or rank is None:
        return None
    default = -1 if int(node.graph.opset_imports.get("", 13)) >= 13 else 1  # type: ignore[union-attr]
    axis = node_facts.int_attribute(node, "axis", default) % rank
    return axis if default == -1 or axis == rank - 1 else None
