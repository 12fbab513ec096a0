"""Operators that say the same as several simpler ones are written out, so that channels show."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.graph.writer import Writer, take_over
from obs_onnx.passes.ops import lookup

__all__ = ["Decompose"]

_MOST = 1 << 20  # channels or parts that are written out


class Decompose(ir.passes.InPlacePass):
    """Write out operators that hide channels.

    1. GroupNormalization becomes InstanceNormalization of reshaped groups, a scale and a shift.
    2. SplitToSequence, every part of which is taken by SequenceAt, becomes Split.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        count = 0
        for node in list(model.graph):
            if node.graph is None or node.domain != "" or lookup(node).foreign is not None:
                continue
            with node_facts.inside(node):
                if node.op_type == "GroupNormalization":
                    count += _group_normalization(model, node)  # 1.
                elif node.op_type == "SplitToSequence":
                    count += _split_to_sequence(model, node)  # 2.
        return ir.passes.PassResult(model, modified=bool(count))


def _group_normalization(model: ir.Model, node: ir.Node) -> int:
    x, scale, shift = node.inputs[:3]
    dims = node_facts.dims(x)
    if x is None or scale is None or shift is None or dims is None or dims[1] is None or x.dtype is None:
        return 0
    groups, channels, version = (
        node_facts.int_attribute(node, "num_groups", 1),
        dims[1],
        node_facts.version(node) or 18,
    )
    if groups < 1 or channels % groups or channels > _MOST:
        return 0
    write, kind = Writer(Names(model), node), x.dtype.numpy()
    per_channel = (channels,) + (1,) * (len(dims) - 2)
    epsilon = ir.AttrFloat32("epsilon", node_facts.float_attribute(node, "epsilon", 1e-5))
    split = write.op("Reshape", [x, write.constant(np.array([0, groups, -1]))])
    ones, zeros = write.constant(np.ones(groups, kind)), write.constant(np.zeros(groups, kind))
    y = write.op("InstanceNormalization", [split, ones, zeros], epsilon)
    y = write.op("Reshape", [y, write.op("Shape", [x])])
    for op_type, parameter in (("Mul", scale), ("Add", shift)):
        if version < 21 and groups != channels:  # one number for each group
            parts = write.op("Unsqueeze", [parameter, write.constant(np.array([1]))])
            parameter = write.op("Expand", [parts, write.constant(np.array([1, channels // groups]))])
        spread = write.op("Reshape", [parameter, write.constant(np.array(per_channel))])
        y = write.op(op_type, [y, spread])
    take_over(write.names, node.outputs[0], y)
    model.graph.remove(node, safe=True)
    return 1


def _part_sizes(length: int, given: NDArray[np.generic] | None) -> list[int] | None:
    """Sizes of the parts of an axis, ``given`` as one or a size for each; None where they make no sense."""
    if given is not None and given.ndim:
        sizes = [int(size) for size in given]
        return sizes if given.ndim == 1 and min(sizes, default=0) >= 0 and sum(sizes) == length else None
    size = 1 if given is None else int(given)
    if size < 1 or length > size * _MOST:
        return None
    return [min(size, length - start) for start in range(0, length, size)]


def _split_to_sequence(model: ir.Model, node: ir.Node) -> int:
    x, uses = node.inputs[0], list(node.outputs[0].uses())
    places = [node_facts.array(use.node, 1) for use in uses]
    taken = all(use.node.op_type == "SequenceAt" and use.idx == 0 for use in uses)
    dims, axis = node_facts.dims(x), node_facts.int_attribute(node, "axis")
    length = dims[axis] if dims is not None else None
    if (
        not taken
        or length is None
        or any(place is None for place in places)
        or node.outputs[0].is_graph_output()
    ):
        return 0
    given = node_facts.array(node, 1)
    if given is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        return 0
    sizes = _part_sizes(length, given)
    if sizes is None or any(
        not -len(sizes) <= int(place) < len(sizes) for place in places if place is not None
    ):
        return 0
    write = Writer(Names(model), node)
    parameters: list[ir.Value | None] = [x]
    attributes = [ir.AttrInt64("axis", axis)]
    version = node_facts.version(node) or 18
    if version >= 13:
        parameters.append(write.constant(np.array(sizes)))
    else:
        attributes.append(ir.AttrInt64s("split", sizes))
    parts = write.ops("Split", parameters, *attributes, outputs=len(sizes))
    for use, place in zip(uses, places, strict=True):
        assert place is not None
        part = parts[int(place)]
        if given is None and not node_facts.int_attribute(node, "keepdims", 1):
            part = _squeezed(write, part, axis, version)
        take_over(write.names, use.node.outputs[0], part)
        model.graph.remove(use.node, safe=True)
    model.graph.remove(node, safe=True)
    return 1


def _squeezed(write: Writer, value: ir.Value, axis: int, version: int) -> ir.Value:
    if version < 13:
        return write.op("Squeeze", [value], ir.AttrInt64s("axes", [axis]))
    return write.op("Squeeze", [value, write.constant(np.array([axis]))])
