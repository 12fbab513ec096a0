"""Operators that cut elements out, or put them in.

Selecting distinct elements has norm one; taking an element r times has norm sqrt(r).
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.ops.vjp.select import RULES
from obs_onnx.passes.traits.atoms import Labels, fixed
from obs_onnx.passes.traits.lipschitz import constant_or, data_only, most_often, pointwise
from obs_onnx.passes.traits.op import Op, differentiable, related
from obs_onnx.passes.traits.relation import Freeze, Relation
from obs_onnx.passes.traits.shrink import Shrink

__all__ = ["TABLE"]


_FAR = 2**31 - 1  # ends from here on are the end of any axis
_MOVES = "it counts positions on an axis of varying size"


def _gather(node: ir.Node) -> tuple[float | None, ...]:
    """Slices along one axis, each as often as its index occurs."""
    indices, shape = node_facts.array(node, 1), node_facts.dims(node.inputs[0])
    bound = None
    if indices is not None and shape is not None:
        length = shape[node_facts.int_attribute(node, "axis")]
        negative = bool((indices.astype(np.int64) < 0).any())
        if length is not None or not negative:
            bound = most_often(indices.astype(np.int64) % length if length else indices)
    elif (
        indices is None
        and (index_dims := node_facts.dims(node.inputs[1])) is not None
        and None not in index_dims
    ):
        bound = math.sqrt(max(1, node_facts.size(node.inputs[1])))
    return constant_or(node, 0, bound), constant_or(node, 1, None)


def _lookup_table(node: ir.Node) -> str | None:
    table = node_facts.constant(node, 0)
    held = table is not None and node_facts.is_float(table) and len(table.shape) > 1
    return "lookup tables are not pruned" if held else None


def _gather_anywhere(node: ir.Node) -> tuple[float | None, ...]:
    """At worst all indices name the same element."""
    index_dims = node_facts.dims(node.inputs[1])
    known = index_dims is not None and None not in index_dims
    bound = math.sqrt(max(1, node_facts.size(node.inputs[1]))) if known else None
    return constant_or(node, 0, bound), constant_or(node, 1, None)


def _relate_slice(r: Relation) -> None:
    """A run of elements of each sliced axis; steps other than 1 become a Gather once elements are gone."""
    x, y = r.axes(0), r.shape()
    ranges = _ranges(r)
    r.leave(*(x[axis] for axis in ranges))
    out = list(x)
    for axis, (start, end, step, varies) in ranges.items():
        n = len(x[axis])
        whole = step == 1 and start in (0, -n) and end >= n
        if varies or len(index := np.arange(n)[_slice(start, end, step, n)]) != y[axis]:
            r.fix(x[axis], "where it cuts is computed at run time")
            out[axis] = fixed(y[axis])
        elif r.dynamic(0, axis) and not (step == 1 and _is_front(start, end) and r.is_anchored(0, axis)):
            r.fix(x[axis], _MOVES)
            out[axis] = fixed(y[axis])
        elif not whole:
            out[axis] = x[axis][index]
    r.give(out)
    affected = [axis for axis in ranges if x[axis].shape[1]]
    if affected and (r.node.op_type != "Slice" or r.opset < 10):
        r.shrink(lambda s: _shrink_old_slice(s, x, ranges))
    elif affected:
        r.shrink(lambda s: _shrink_slice(s, x, ranges))


def _is_front(start: int, end: int) -> bool:
    """Whether a range is counted from the front, or goes on to the end."""
    return start >= 0 and end >= 0


def _slice(start: int, end: int, step: int, n: int) -> slice:
    return slice(start, None if step < 0 and end < -n else end, step)


def _ranges(r: Relation) -> dict[int, tuple[int, int, int, bool]]:
    """Start, end, step of every sliced axis, and whether they vary between runs."""
    rank = len(r.axes(0))
    if r.integers("starts") is not None:
        starts, ends = r.integers("starts") or (), r.integers("ends") or ()
        axes = r.integers("axes") or tuple(range(len(starts)))
        return {a % rank: (b, e, 1, False) for a, b, e in zip(axes, starts, ends, strict=True)}
    axes_steps = [r.constant(slot) if r.has(slot) else None for slot in (3, 4)]
    if any(r.has(slot) and given is None for slot, given in zip((3, 4), axes_steps, strict=True)):
        raise Freeze("the axes it cuts are computed at run time")
    known = r.known(1), r.known(2)
    count = len(next((pair[0] for pair in known if pair is not None), r.shape()))
    axes = tuple(range(count)) if axes_steps[0] is None else tuple(int(a) for a in axes_steps[0])
    steps = [1] * count if axes_steps[1] is None else [int(a) for a in axes_steps[1]]
    found = {}
    for i, axis in enumerate(axes):
        start, end = ((int(pair[0][i]), bool(pair[1][i])) if pair else (0, True) for pair in known)
        found[axis % rank] = start[0], end[0], steps[i], start[1] or end[1]
    return found


def _moved(s: Shrink, labels: Labels, start: int, end: int) -> tuple[int, int]:
    """What is left of a range of an axis; a bound behind its end keeps its distance from there."""
    alive = s.alive(labels)
    n, gone = len(alive), int((~alive).sum())
    index = range(n)[start:end]
    first = int(alive[: index.start].sum()) if start < n else start - gone
    if end >= n:
        return first, end if end >= _FAR else end - gone
    return first, first + int(alive[index.start : max(index.start, index.stop)].sum())


def _shrink_slice(s: Shrink, x: list[Labels], ranges: dict[int, tuple[int, int, int, bool]]) -> None:
    starts, ends = (s.dense(slot).copy() for slot in (1, 2))
    steps = s.dense(4).copy() if len(s.node.inputs) > 4 and s.node.inputs[4] is not None else None
    for i, (axis, (start, end, step, _)) in enumerate(ranges.items()):
        if not s.changed(x[axis]):
            continue
        n, alive = len(x[axis]), s.alive(x[axis])
        if step == 1:
            starts[i], ends[i] = _moved(s, x[axis], start, end)
        else:
            index = np.arange(n)[_slice(start, end, step, n)]
            s.gather(0, axis, (np.cumsum(alive) - 1)[index[alive[index]]])
            assert steps is not None
            starts[i], ends[i], steps[i] = 0, np.iinfo(np.int32).max, 1
    s.operand(1, starts)
    s.operand(2, ends)
    if steps is not None:
        s.operand(4, steps)


def _shrink_old_slice(s: Shrink, x: list[Labels], ranges: dict[int, tuple[int, int, int, bool]]) -> None:
    moved = {
        axis: _moved(s, x[axis], start, end) if s.changed(x[axis]) else (start, end)
        for axis, (start, end, _, _) in ranges.items()
    }
    s.attribute("axes", list(moved))
    s.attribute("starts", [start for start, _ in moved.values()])
    s.attribute("ends", [end for _, end in moved.values()])


def _relate_gather(r: Relation) -> None:
    """A constant index picks elements; an index computed at run time keeps the axis whole."""
    x = r.axes(0)
    axis = r.integer("axis", 0) % len(x)
    index = r.constant(1)
    if index is None:
        r.fix(x[axis], "it is indexed at run time")
        r.give([*x[:axis], *r.axes(1), *x[axis + 1 :]])
        return
    r.leave(x[axis])
    if r.dynamic(0, axis) and ((index < 0).any() or not r.is_anchored(0, axis)):
        r.fix(x[axis], _MOVES)
    n = len(x[axis])
    index = np.where(index < 0, index + n, index).astype(np.int64)
    picked = x[axis][index.reshape(-1)]
    if index.ndim == 0:
        r.fix(picked, "it picks one element of this axis")
    parts = r.atoms.split(picked, index.shape) if index.ndim else []
    r.give([*x[:axis], *parts, *x[axis + 1 :]])
    if not x[axis].shape[1]:
        return

    def shrink(s: Shrink) -> None:
        if s.changed(x[axis]):
            kept = index[np.ix_(*(s.alive(part) for part in parts))] if parts else index
            s.operand(1, (np.cumsum(s.alive(x[axis])) - 1)[kept])

    r.shrink(shrink)


def _relate_gather_elements(r: Relation) -> None:
    """Indices run along one axis; other axes pass where data and indices are equally long."""
    x, index = r.axes(0), r.axes(1)
    axis = r.integer("axis", 0) % len(x)
    out = []
    for i, (labels, along) in enumerate(zip(x, index, strict=True)):
        if i == axis or len(labels) != len(along):
            r.fix([labels, along], "it is indexed at run time")
            out.append(fixed(len(along)))
        else:
            r.tie(labels, along)
            out.append(r.atoms.resolve(labels))
    r.give(out)


def _relate_gather_nd(r: Relation) -> None:
    """The first axes are indexed, the rest pass."""
    x, index = r.axes(0), r.axes(1)
    depth, batch = len(index[-1]), r.integer("batch_dims")
    r.fix([*x[: batch + depth], *index], "it is indexed at run time")
    r.give([*(fixed(len(labels)) for labels in index[:-1]), *x[batch + depth :]])


def _relate_scatter_nd(r: Relation) -> None:
    """The first axes are indexed, the rest are those of the updates."""
    x, index, updates = r.axes(0), r.axes(1), r.axes(2)
    depth = len(index[-1])
    r.fix([*x[:depth], *index, *updates[: len(index) - 1]], "it is indexed at run time")
    for labels, along in zip(x[depth:], updates[len(index) - 1 :], strict=True):
        r.tie(labels, along)
    r.give([r.atoms.resolve(labels) for labels in x])


def _relate_scatter_elements(r: Relation) -> None:
    """Updates run along one axis; other axes pass where all are equally long."""
    x, axis = r.axes(0), r.integer("axis", 0) % len(r.axes(0))
    for i, pieces in enumerate(zip(x, r.axes(1), r.axes(2), strict=True)):
        if i == axis or len({len(piece) for piece in pieces}) > 1:
            r.fix(pieces, "it is indexed at run time")
        else:
            r.tie(pieces[0], pieces[1])
            r.tie(pieces[0], pieces[2])
    r.give([r.atoms.resolve(labels) for labels in x])


_ONE = Op(lipschitz=data_only(1.0))
_NONE = Op(lipschitz=pointwise(None))

_KNOWN = related(
    {
        "Slice": _ONE,
        "Compress": Op(lipschitz=data_only(1.0), decides=True, chooses=True),
        "Gather": Op(linear=_lookup_table, lipschitz=_gather),
        "GatherElements": Op(lipschitz=_gather_anywhere),
        "GatherND": Op(lipschitz=_gather_anywhere),
        "Scatter": _NONE,
        "ScatterElements": _NONE,
        "ScatterND": _NONE,
    },
    {
        _relate_slice: "Slice",
        _relate_gather: "Gather",
        _relate_gather_elements: "GatherElements",
        _relate_gather_nd: "GatherND",
        _relate_scatter_nd: "ScatterND",
        _relate_scatter_elements: "ScatterElements Scatter",
    },
)

TABLE = differentiable(_KNOWN, RULES)
