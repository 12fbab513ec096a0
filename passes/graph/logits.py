"""Where the class scores of a model are: before a softmax or a choice of classes at its end."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts

__all__ = ["class_axes", "holds_class_numbers", "logits_of", "softmax_axis"]

_CARRIES = ("Cast", "Identity", "Transpose")
_CHOICES = ("ArgMax", "TopK")
_NORMALIZED = ("Hardmax", "LogSoftmax", "Softmax")
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


def class_axes(model: ir.Model, names: Collection[str]) -> dict[str, int]:
    """Axes of values inside of a model along which what lies behind takes them for scores of classes.

    It does so where the largest is looked for (ArgMax, TopK) and its place is all that becomes of it, or by a
    softmax whose result is given or decided on so. Places that are used to choose other rows are no classes;
    nor are the largest of several values that a model with further outputs looks for, which may be rows.

    Args:
        model: without functions, with shapes inferred.
        names: of values.
    """
    values = [value for node in model.graph for value in node.outputs if value.name in names]
    found = {str(value.name): _class_axis(value, model) for value in values}
    return {name: axis for name, axis in found.items() if axis is not None}


def _class_axis(value: ir.Value, model: ir.Model) -> int | None:
    """See :func:`class_axes`."""
    rank = _rank(value)
    for use in value.uses():
        node = use.node
        if use.idx or node.domain or rank is None or node.graph is not model.graph:
            continue
        axis = None
        if node.op_type in _VIEWS:
            behind = _class_axis(node.outputs[0], model)
            axis = None if behind is None else _axis_before(node, behind)
        elif node.op_type in _CHOICES and _gives_classes(node, value, model):
            axis = node_facts.int_attribute(node, "axis", 0 if node.op_type == "ArgMax" else -1) % rank
        elif node.op_type in _NORMALIZED:
            (result,) = node.outputs
            if (
                any(one.is_graph_output() for one in _viewed(result))
                or _class_axis(result, model) is not None
            ):
                axis = _axis(node, rank)
        if axis is not None:
            return axis
    return None


def _gives_classes(node: ir.Node, scores: ir.Value, model: ir.Model) -> bool:
    """Whether the places that a node chooses are given as they are."""
    places = list(_viewed(node.outputs[-1]))
    ends = any(one.is_graph_output() for one in places) and all(
        use.idx == 0 and use.node.domain == "" and use.node.op_type in _VIEWS
        for one in places
        for use in one.uses()
    )
    if node.op_type == "ArgMax":
        return ends
    given = {*_viewed(scores), *(one for output in node.outputs for one in _viewed(output))}
    return ends and set(model.graph.outputs) <= given


def _viewed(value: ir.Value) -> Iterator[ir.Value]:
    """A value, and all that hold its numbers in another shape, order or type."""
    yield value
    for use in value.uses():
        if use.idx == 0 and use.node.domain == "" and use.node.op_type in _VIEWS:
            yield from _viewed(use.node.outputs[0])


def _axis_before(node: ir.Node, axis: int) -> int | None:
    """The axis of a view's input that ``axis`` of its output is; None where that is not known."""
    before, after = (None if x is None else node_facts.dims(x) for x in (node.inputs[0], node.outputs[0]))
    if before is None or after is None:
        return None
    if node.op_type == "Transpose":
        given = node.attributes.get("perm")
        return (list(range(len(before)))[::-1] if given is None else list(given.as_ints()))[axis]
    if node.op_type in _CARRIES:
        return axis
    size, inner = after[axis], _inner(after, axis)
    hits = [
        k for k, n in enumerate(before) if isinstance(n, int) and n == size and _inner(before, k) == inner
    ]
    return hits[0] if len(hits) == 1 else None


def _inner(dims: Sequence[object], axis: int) -> list[object]:
    """What lies behind an axis, without axes of one element."""
    return [size for size in dims[axis + 1 :] if size != 1]


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
