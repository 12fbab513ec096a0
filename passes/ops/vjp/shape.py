"""Vector-Jacobian products of operators that move elements: the way back, zeros where nothing was taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.traits.op import nothing
from obs_onnx.passes.traits.vjp import Vjp

__all__ = ["REPEATS", "RULES"]


def _reshape(v: Vjp) -> None:
    v.stop(1)
    v.give(0, v.reshape_like(v.gy(), v.x()))


def _transpose(v: Vjp) -> None:
    perm = node_facts.ints_attribute(v.node, "perm") or tuple(reversed(range(v.rank(v.x()))))
    v.give(0, v.transpose(v.gy(), [int(i) for i in np.argsort(perm)]))


def _concat(v: Vjp) -> None:
    """Each input gets its piece; the places of pieces are running sums of lengths."""
    count = len(v.node.inputs)
    axis = node_facts.int_attribute(v.node, "axis") % v.rank(v.x())
    start: int | ir.Value = 0
    for index in range(count):
        piece, length = v.x(index), v.dims(v.x(index))[axis]
        stop: int | ir.Value
        if length is not None and isinstance(start, int):
            stop = start + length
        else:
            stop = v.op("Add", _vector(v, start), v.size_of(piece, axis))
        if v.wants(index):
            grad = v.op("Slice", v.gy(), _vector(v, start), _vector(v, stop), v.ints([axis]))
            grad.shape = (
                piece.shape if piece.const_value is None else ir.Shape(piece.const_value.shape.numpy())
            )
            v.give(index, grad)
        start = stop


def _vector(v: Vjp, number: int | ir.Value) -> ir.Value:
    return number if isinstance(number, ir.Value) else v.ints([number])


def _split(v: Vjp) -> None:
    v.stop(1)
    pieces = [v.gy(index) for index in range(len(v.node.outputs))]
    axis = node_facts.int_attribute(v.node, "axis") % v.rank(v.x())
    v.give(0, v.op("Concat", *pieces, axis=axis))


def _expand(v: Vjp) -> None:
    v.stop(1)
    v.give(0, v.sum_to(v.gy(), v.x()))


def _tile(v: Vjp) -> None:
    """Axis i is (repetition, element): sum over all repetitions."""
    v.stop(1)
    dims, repeats = v.dims(v.x()), v.ints_of(1)
    pairs: ir.Value | list[int]
    if repeats is not None and None not in dims:
        pairs = [n for pair in zip(repeats, dims, strict=True) for n in pair if n is not None]
    else:
        shape = v.unsqueeze(v.op("Shape", v.x()), [1])
        pairs = v.reshape(v.op("Concat", v.unsqueeze(v.x(1), [1]), shape, axis=1), [-1])
    grad = v.sum(v.reshape(v.gy(), pairs), [2 * i for i in range(len(dims))])
    grad.shape = v.x().shape
    v.give(0, grad)


def _depth_to_space(v: Vjp) -> None:
    """SpaceToDepth; mode CRD then needs (block, channel) exchanged for (channel, block)."""
    block = node_facts.int_attribute(v.node, "blocksize", 1)
    grad = v.op("SpaceToDepth", v.gy(), blocksize=block)
    if node_facts.text_attribute(v.node, "mode", "DCR") == "CRD":
        channels = _channels(v, v.x())
        grad = v.reshape(grad, [0, block**2, channels // block**2, -1])
        grad = v.reshape_like(v.transpose(grad, [0, 2, 1, 3]), v.x())
    v.give(0, grad)


def _space_to_depth(v: Vjp) -> None:
    """DepthToSpace, in the same order of block and channel."""
    block, mode = (
        node_facts.int_attribute(v.node, "blocksize", 1),
        node_facts.text_attribute(v.node, "mode", "DCR"),
    )
    v.give(0, v.op("DepthToSpace", v.gy(), blocksize=block, mode=mode))


def _channels(v: Vjp, value: ir.Value) -> int:
    channels = v.dims(value)[1]
    if channels is None:
        v.refuse("the number of channels is unknown")
    return channels


def _triangle(v: Vjp) -> None:
    v.stop(1)
    diagonal = v.x(1) if v.has(1) else None
    operands = [v.gy()] if diagonal is None else [v.gy(), diagonal]
    v.give(0, v.op("Trilu", *operands, upper=node_facts.int_attribute(v.node, "upper", 1)))


def _reversed(v: Vjp) -> None:
    """Reversing twice changes nothing."""
    v.stop(1)
    axes = {name: node_facts.int_attribute(v.node, name, default) for name, default in _SEQUENCE_AXES.items()}
    v.give(0, v.op("ReverseSequence", v.gy(), v.x(1), **axes))


_SEQUENCE_AXES = {"time_axis": 0, "batch_axis": 1}


def _one_hot(v: Vjp) -> None:
    """``off + (on - off) e``: the two values get sums of the gradient."""
    v.stop(0, 1)
    if not v.wants(2):
        return
    values = v.constant(np.array([0.0, 1.0]), v.x(2))
    axis = node_facts.int_attribute(v.node, "axis", -1)
    hot = v.op("OneHot", v.x(0), v.x(1), values, axis=axis)
    on = v.sum(v.mul(v.gy(), hot))
    off = v.sub(v.sum(v.gy()), on)
    v.give(2, v.op("Concat", v.reshape(off, [1]), v.reshape(on, [1]), axis=0))


RULES: Mapping[Callable[[Vjp], None], str] = {
    _reshape: "Reshape Flatten Squeeze Unsqueeze",
    _transpose: "Transpose",
    _concat: "Concat",
    _split: "Split",
    _depth_to_space: "DepthToSpace",
    _space_to_depth: "SpaceToDepth",
    _triangle: "Trilu",
    _reversed: "ReverseSequence",
    _one_hot: "OneHot",
    nothing: "Shape Size EyeLike NonZero NonMaxSuppression",
}
REPEATS: Mapping[Callable[[Vjp], None], str] = {_expand: "Expand", _tile: "Tile"}
