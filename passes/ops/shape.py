"""Operators that move, select or repeat elements and compute nothing.

Moving and selecting distinct elements has norm one; repeating an element r times has norm sqrt(r).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from obs_onnx.passes.ops.quantized.counterpart import counterpart, in_threes
from obs_onnx.passes.ops.vjp.shape import RULES
from obs_onnx.passes.traits.atoms import Labels, fixed, joined, product
from obs_onnx.passes.traits.lipschitz import constant_or, data_only, independent, pointwise
from obs_onnx.passes.traits.op import Op, differentiable, related
from obs_onnx.passes.traits.relation import Freeze, Relation
from obs_onnx.passes.traits.shrink import Shrink

__all__ = ["TABLE"]


_ONE = Op(lipschitz=data_only(1.0))
_VIEW = Op(lipschitz=data_only(1.0), view=True)
_ZERO = Op(lipschitz=independent)
_NONE = Op(lipschitz=pointwise(None))
_SIZES = Op(lipschitz=independent, shape_only=True)
_FOUND = Op(lipschitz=pointwise(None), decides=True, chooses=True)
_MOVED = Op(lipschitz=data_only(1.0), additive=True)
_ALL_ONE = Op(lipschitz=lambda node: tuple(constant_or(node, i, 1.0) for i in range(len(node.inputs))))


def _relate_reshape(r: Relation) -> None:
    """Axes are merged and cut; the target follows."""
    x = r.axes(0)
    y = r.regroup(x, r.shape())
    r.give(y)
    if r.node.op_type == "Squeeze" and not r.has(1) and r.integers("axes") is None:
        r.shrink(lambda s: _name_axes(s, x, r.opset))
    if r.node.op_type != "Reshape" or not r.has(1):
        return
    known = r.known(1)
    if known is None:
        if any(labels.shape[1] for labels in x):
            raise Freeze("its target shape is computed at run time")
        return
    (target, varies), free = known, not r.integer("allowzero")
    one_free = -1 not in target
    if not (one_free and varies.sum() == 1):
        for labels in (labels for labels, marked in zip(y, varies, strict=True) if marked):
            r.restate(labels)

    def shrink(s: Shrink) -> None:
        before, after = s.shape(x), s.shape(y)
        if after == tuple(len(labels) for labels in y):
            return
        kept = [d == -1 or (d == 0 and free and before[i] == after[i]) for i, d in enumerate(target)]
        sizes = [r.atoms.resolve(labels) for labels in y]
        s.operand(1, np.where(kept, target, after), sizes, one_free)

    r.shrink(shrink)


def _name_axes(s: Shrink, x: list[Labels], opset: int) -> None:
    """Squeeze goes on dropping the same axes, not one that has but one element left."""
    ones = [axis for axis, labels in enumerate(x) if len(labels) == 1]
    if 1 in s.shape([labels for labels in x if len(labels) > 1]):
        if opset < 13:
            s.attribute("axes", ones)
        else:
            s.operand(1, np.array(ones))


def _relate_transpose(r: Relation) -> None:
    x = r.axes(0)
    r.give([x[axis] for axis in r.integers("perm") or tuple(reversed(range(len(x))))])


def _relate_concat(r: Relation) -> None:
    """The joined axis is all pieces in a row; the others are one."""
    pieces = [r.axes(slot) for slot in range(len(r.node.inputs)) if r.has(slot)]
    axis = r.integer("axis", 0) % len(pieces[0])
    out = list(pieces[0])
    for piece in pieces[1:]:
        for i, labels in enumerate(piece):
            if i != axis:
                r.tie(out[i], labels)
    out = [r.atoms.resolve(labels) for labels in out]
    out[axis] = joined([r.atoms.resolve(piece[axis]) for piece in pieces])
    r.give(out)


def _relate_quantized(r: Relation) -> None:
    """Scale and zero point of the result, and then integers, scale and zero point of each piece."""
    counterpart(_relate_concat, *in_threes(r, 2))(r)


def _relate_split(r: Relation) -> None:
    x = r.axes(0)
    axis = r.integer("axis", 0) % len(x)
    ends = np.cumsum([r.shape(index)[axis] for index in range(len(r.node.outputs))])
    if ends[-1] != len(x[axis]):
        raise Freeze("its pieces do not cover the axis")
    pieces = np.split(x[axis], ends[:-1])
    for index, piece in enumerate(pieces):
        r.give([piece if i == axis else labels for i, labels in enumerate(x)], index)

    def shrink(s: Shrink) -> None:
        if not s.changed(x[axis]):
            return
        if r.opset < 13:
            s.attribute("split", s.shape(pieces))
        else:
            s.node.attributes.pop("num_outputs", None)
            s.operand(1, np.array(s.shape(pieces)), [r.atoms.resolve(piece) for piece in pieces])

    known = r.known(1)
    if known is None and (r.has(1) or r.dynamic(0, axis)):
        r.fix(x[axis], "the sizes of its pieces are computed at run time")
        return
    for piece, varies in zip(pieces, known[1] if known else (), strict=False):
        if varies:
            r.restate(piece)
    r.shrink(shrink)


def _relate_triangle(r: Relation) -> None:
    """Trilu looks at where elements stand in the last two axes."""
    r.fix(r.axes(0)[-2:], "it keeps one triangle of this axis")
    r.give([r.atoms.resolve(labels) for labels in r.axes(0)])


def _relate_reversed(r: Relation) -> None:
    """ReverseSequence turns time around, for each example by itself."""
    x = r.axes(0)
    r.fix([x[r.integer("time_axis", 0)], x[r.integer("batch_axis", 1)]], "it reverses this axis")
    r.give([r.atoms.resolve(labels) for labels in x])


def _relate_sizes(r: Relation) -> None:
    """Shape and Size keep telling the dense sizes; removal sees to that."""
    x = r.axes(0)
    r.leave(*x)
    for axis in (axis for axis in range(len(x)) if r.dynamic(0, axis)):
        r.restate(x[axis], alone=r.node.op_type == "Shape")
    r.give([fixed(n) for n in r.shape()])


def _relate_depth_to_space(r: Relation) -> None:
    """Channels are (block, block, channel), or (channel, block, block) in mode CRD; blocks become places."""
    x, y = r.axes(0), r.shape()
    block = r.integer("blocksize", 1) ** 2
    depth = len(x[1]) // block
    if r.node.attributes.get_string("mode", "DCR") == "CRD":
        channel, places = r.atoms.split(x[1], [depth, block])
    else:
        places, channel = r.atoms.split(x[1], [block, depth])
    r.fix([places, *x[2:]], "its elements become places")
    r.give([x[0], r.atoms.resolve(channel), fixed(y[2]), fixed(y[3])])


def _relate_space_to_depth(r: Relation) -> None:
    """Channels become (block, block, channel), or (channel, block, block) in mode CRD."""
    x, y = r.axes(0), r.shape()
    r.fix(x[2:], "its places become channels")
    places = fixed(r.integer("blocksize", 1) ** 2)
    crd = r.node.attributes.get_string("mode", "DCR") == "CRD"
    r.give([x[0], product([x[1], places] if crd else [places, x[1]]), fixed(y[2]), fixed(y[3])])


def _relate_whole(r: Relation) -> None:
    """EyeLike, Range and the like: nothing of it may go."""
    for slot in range(len(r.node.inputs)):
        if r.has(slot) and math.prod(len(labels) for labels in r.axes(slot)) > 1:
            r.fix(r.axes(slot), "it is used as a whole")
    r.give([fixed(n) for n in r.shape()])


_KNOWN = related(
    {
        "Reshape": _VIEW,
        "Flatten": _VIEW,
        "Transpose": _MOVED,
        "Squeeze": _VIEW,
        "Unsqueeze": _VIEW,
        "Split": _MOVED,
        "SpaceToDepth": _MOVED,
        "DepthToSpace": _MOVED,
        "Trilu": _ONE,
        "ReverseSequence": _ONE,
        "SplitToSequence": _ONE,
        "SequenceAt": _ONE,
        "Concat": replace(_ALL_ONE, additive=True, joins=True),
        "SequenceConstruct": _ALL_ONE,
        "ConcatFromSequence": _ONE,
        # the outputs do not depend on the values of the inputs
        "Shape": _SIZES,
        "Size": _SIZES,
        "Constant": _ZERO,
        "EyeLike": _ZERO,
        # no bound
        "NonZero": _FOUND,
        "OneHot": _NONE,
        "Range": _NONE,
        "Unique": _FOUND,
        "com.microsoft::Unique": _FOUND,
        "NonMaxSuppression": _FOUND,
        "com.microsoft::QLinearConcat": Op(joins=True, quantizes=True),
    },
    {
        _relate_reshape: "Reshape Flatten Squeeze Unsqueeze",
        _relate_transpose: "Transpose",
        _relate_concat: "Concat",
        _relate_quantized: "com.microsoft::QLinearConcat",
        _relate_split: "Split",
        _relate_depth_to_space: "DepthToSpace",
        _relate_space_to_depth: "SpaceToDepth",
        _relate_sizes: "Shape Size",
        _relate_triangle: "Trilu",
        _relate_reversed: "ReverseSequence",
        _relate_whole: "Range EyeLike NonZero OneHot",
    },
)

TABLE = differentiable(_KNOWN, RULES)
