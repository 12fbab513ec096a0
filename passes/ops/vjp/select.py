"""Vector-Jacobian products of operators that cut out, look up, scatter and pad elements.

What was taken from a place flows back to it. Repeated places are summed, by ScatterND and ScatterElements
from opset 16 on, before that by a product with one-hot rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.traits.op import nothing
from obs_onnx.passes.traits.separable import identity, pull_back
from obs_onnx.passes.traits.vjp import Vjp

__all__ = ["EXTENSIONS", "RULES"]

_SCATTER_ADDS = 16

Number = int | ir.Value
"""A length or a place: known, or a vector of one int64 at run time."""


def _slice(v: Vjp) -> None:
    """Zeros between the elements for a step, then before and after them."""
    v.stop(1, 2, 3, 4)
    x = v.x()
    rank, starts, ends = v.rank(x), v.ints_of(1), v.ints_of(2)
    axes, steps = _constants(v, 3), _constants(v, 4)
    count = len(starts) if starts is not None else (v.dims(v.x(1))[0] or rank)
    axes = [axis % rank for axis in (range(count) if axes is None else axes)]
    grad = v.gy()
    before: list[Number] = [0] * rank
    after: list[Number] = [0] * rank
    for i, axis in enumerate(axes):
        step = 1 if steps is None else steps[i]
        length, taken = _length(v, x, axis), _length(v, v.y(), axis)
        if starts is not None and isinstance(length, int) and (ends is not None or isinstance(taken, int)):
            place = range(length)[slice(starts[i], None, step)]
            first: Number = place.start
            if ends is not None:
                taken = len(range(length)[_bounds(starts[i], ends[i], step, length)])
        else:
            start = v.op("Gather", v.op("Cast", v.x(1), to=int(ir.DataType.INT64)), v.ints([i]), axis=0)
            first = _clamped(v, start, length, step)
        if step != 1:
            grad = _spread(v, grad, axis, abs(step), reverse=step < 0)
            if step < 0:
                first = _plus(v, first, _times(v, _plus(v, taken, -1), step))
        before[axis] = first
        after[axis] = _minus(v, length, _plus(v, first, _times(v, taken, abs(step))))
    v.give(0, _padded(v, grad, before, after, x))


def _constants(v: Vjp, slot: int) -> list[int] | None:
    """Integers of an optional input."""
    if not v.has(slot):
        return None
    found = v.ints_of(slot)
    if found is None:
        v.refuse(f"its input {slot} is computed at run time")
    return list(found)


def _bounds(start: int, end: int, step: int, length: int) -> slice:
    return slice(start, None if step < 0 and end < -length else end, step)


def _length(v: Vjp, value: ir.Value, axis: int) -> Number:
    known = v.dims(value)[axis]
    return v.size_of(value, axis) if known is None else known


def _clamped(v: Vjp, start: ir.Value, length: Number, step: int) -> ir.Value:
    """A start as Slice understands it: from the end when negative, within the axis."""
    size, low = _vector(v, length), v.ints([0])
    start = v.where(v.op("Less", start, low), v.add(start, size), start)
    start = v.where(v.op("Less", start, low), low, start)
    high = size if step > 0 else v.sub(size, v.ints([1]))
    return v.where(v.op("Less", high, start), high, start)


def _vector(v: Vjp, number: Number) -> ir.Value:
    return number if isinstance(number, ir.Value) else v.ints([number])


def _plus(v: Vjp, a: Number, b: Number) -> Number:
    return a + b if isinstance(a, int) and isinstance(b, int) else v.add(_vector(v, a), _vector(v, b))


def _minus(v: Vjp, a: Number, b: Number) -> Number:
    return a - b if isinstance(a, int) and isinstance(b, int) else v.sub(_vector(v, a), _vector(v, b))


def _times(v: Vjp, a: Number, b: int) -> Number:
    return a * b if isinstance(a, int) else a if b == 1 else v.mul(a, v.ints([b]))


def _spread(v: Vjp, grad: ir.Value, axis: int, step: int, reverse: bool) -> ir.Value:
    """``step - 1`` zeros behind each element along ``axis``, after turning it around if asked."""
    if reverse:
        grad = v.slice(grad, [-1], [None], [axis], [-1])
    if step == 1:
        return grad
    rank, dims = v.rank(grad), list(v.dims(grad))
    ends = [0] * (rank + 1)
    ends[axis + 1] = step - 1
    wide = v.pad(v.unsqueeze(grad, [axis + 1]), [0] * (rank + 1), ends)
    others = [n for i, n in enumerate(dims) if i != axis]
    if None not in others and 0 not in others:
        return v.reshape(wide, [-1 if i == axis else n or 0 for i, n in enumerate(dims)])
    sizes = [_vector(v, _times(v, _length(v, grad, i), step if i == axis else 1)) for i in range(rank)]
    return v.reshape(wide, v.op("Concat", *sizes, axis=0))


def _padded(
    v: Vjp, grad: ir.Value, before: Sequence[Number], after: Sequence[Number], x: ir.Value
) -> ir.Value:
    """Zeros around ``grad``, which then has the shape of ``x``."""
    begins, ends = ([n for n in side if isinstance(n, int)] for side in (before, after))
    if len(begins) + len(ends) == len(before) + len(after):
        return v.pad(grad, begins, ends)
    made = v.op("Pad", grad, v.op("Concat", *[_vector(v, n) for n in (*before, *after)], axis=0))
    made.shape = x.shape
    return made


def _pad(v: Vjp) -> None:
    """Cut off what was added; copies of elements are summed into them."""
    v.stop(1, 3)
    x, mode = v.x(), node_facts.text_attribute(v.node, "mode", "constant")
    rank, axes, pads = v.rank(x), _constants(v, 3), v.ints_of(1)
    axes = list(range(rank)) if axes is None else [axis % rank for axis in axes]
    if mode != "constant":
        v.give(0, _sum_of_copies(v, axes, pads, mode))
        return
    if pads is None:
        back = v.op("Neg", v.op("Cast", v.x(1), to=int(ir.DataType.INT64)))
        grad = v.op("Pad", v.gy(), *([back] if len(axes) == rank else [back, None, v.ints(axes)]))
        grad.shape = x.shape
    elif min(pads, default=0) >= 0:
        kept = [i for i in range(len(axes)) if pads[i] or pads[len(axes) + i]]
        ends = [-pads[len(axes) + i] or None for i in kept]
        grad = v.slice(v.gy(), [pads[i] for i in kept], ends, [axes[i] for i in kept]) if kept else v.gy()
    else:
        begins, stops = [0] * rank, [0] * rank
        for i, axis in enumerate(axes):
            begins[axis], stops[axis] = -pads[i], -pads[len(axes) + i]
        grad = v.pad(v.gy(), begins, stops)
    v.give(0, grad)
    if v.wants(2):
        v.give(2, v.reshape_like(v.sub(v.sum(v.gy()), v.sum(grad)), v.x(2)))


def _sum_of_copies(v: Vjp, axes: Sequence[int], pads: Sequence[int] | None, mode: str) -> ir.Value:
    grad, n = v.gy(), len(axes)
    for i, axis in enumerate(axes):
        if pads is not None and pads[i] == pads[n + i] == 0:
            continue
        if pads is not None:
            amounts = v.ints([0, 0, 0, pads[i], 0, 0, 0, pads[n + i]])
        else:
            given = v.op("Cast", v.x(1), to=int(ir.DataType.INT64))
            sides = [v.slice(given, [k], [k + 1], [0]) for k in (i, n + i)]
            amounts = v.op("Concat", v.ints([0] * 3), sides[0], v.ints([0] * 3), sides[1], axis=0)
        image = v.op("Pad", identity(v, v.x(), axis), amounts, mode=mode)
        grad = pull_back(v, grad, image, axis)
    return grad


def _gather(v: Vjp) -> None:
    v.stop(1)
    x = v.x()
    axis = node_facts.int_attribute(v.node, "axis") % v.rank(x)
    length, index = v.dims(x)[axis], node_facts.array(v.node, 1)
    if index is not None and length is not None:
        places = index.astype(np.int64)
        places = np.where(places < 0, places + length, places)
        run = places.reshape(-1)
        if run.size and places.ndim < 2 and np.array_equal(run, np.arange(run[0], run[0] + run.size)):
            grad = v.unsqueeze(v.gy(), [axis]) if places.ndim == 0 else v.gy()
            before, after = [0] * v.rank(x), [0] * v.rank(x)
            before[axis], after[axis] = int(run[0]), length - int(run[-1]) - 1
            v.give(0, v.pad(grad, before, after))
            return
        if places.ndim == 1 and run.size == length and np.unique(run).size == length:
            v.give(0, v.op("Gather", v.gy(), v.ints([int(i) for i in np.argsort(run)]), axis=axis))
            return
    v.give(0, _scattered_slices(v, v.gy(), v.x(1), axis))


def _scattered_slices(v: Vjp, grad: ir.Value, index: ir.Value, axis: int) -> ir.Value:
    """Sum of the slices of ``grad`` (axes of ``index`` in place of ``axis``) at the places they came from."""
    x, rank, many = v.x(), v.rank(v.x()), v.rank(index)
    if v.opset < _SCATTER_ADDS:
        return _one_hot_product(v, grad, index, axis)
    inner = list(range(axis, axis + many))
    others = [i for i in range(rank - 1 + many) if i not in inner]
    target = [axis, *(i for i in range(rank) if i != axis)]
    zeros = v.filled(0.0, x) if axis == 0 else v.transpose(v.filled(0.0, x), target)
    updates = v.transpose(grad, [*inner, *others])
    rows = v.op("ScatterND", zeros, v.unsqueeze(_int64(v, index), [many]), updates, reduction="add")
    return v.transpose(rows, [int(i) for i in np.argsort(target)])


def _int64(v: Vjp, index: ir.Value) -> ir.Value:
    return v.op("Cast", index, to=int(ir.DataType.INT64)) if index.dtype == ir.DataType.INT32 else index


def _one_hot_product(v: Vjp, grad: ir.Value, index: ir.Value, axis: int) -> ir.Value:
    """``E^T`` times grad as (in front, places, behind), where row m of E is one at the index of place m."""
    x = v.x()
    values = v.constant(np.array([0.0, 1.0]), grad)
    depth = v.squeeze(v.size_of(x, axis), [0])
    hot = v.op("OneHot", v.reshape(index, [-1]), depth, values, axis=0)
    size: Number = 1
    for n in (_length(v, x, i) for i in range(axis)):
        both = isinstance(size, int) and isinstance(n, int)
        size = size * n if both else v.mul(_vector(v, size), _vector(v, n))
    known = None not in v.dims(index)
    places = v.ints([_product(v.dims(index))]) if known else v.reshape(v.op("Size", index), [1])
    flat = v.reshape(grad, v.op("Concat", _vector(v, size), places, v.ints([-1]), axis=0))
    return v.reshape_like(v.op("MatMul", hot, flat), x)


def _product(dims: Sequence[int | None]) -> int:
    return int(np.prod([dim or 0 for dim in dims], dtype=np.int64))


def _compress(v: Vjp) -> None:
    """Gather at the places where the condition holds."""
    v.stop(1)
    x = v.x()
    places = v.squeeze(v.op("NonZero", v.x(1)), [0])
    if "axis" in v.node.attributes:
        axis = node_facts.int_attribute(v.node, "axis") % v.rank(x)
        v.give(0, _scattered_slices(v, v.gy(), places, axis))
    else:
        zeros = v.reshape(v.filled(0.0, x), [-1])
        v.give(0, v.reshape_like(v.op("ScatterElements", zeros, places, v.gy(), axis=0), x))


def _gather_elements(v: Vjp) -> None:
    v.stop(1)
    _needs_sums(v)
    axis = node_facts.int_attribute(v.node, "axis")
    zeros = v.filled(0.0, v.x())
    v.give(0, v.op("ScatterElements", zeros, v.x(1), v.gy(), axis=axis, reduction="add"))


def _gather_nd(v: Vjp) -> None:
    v.stop(1)
    _needs_sums(v)
    if node_facts.int_attribute(v.node, "batch_dims"):
        v.refuse("it has batch axes")
    v.give(0, v.op("ScatterND", v.filled(0.0, v.x()), v.x(1), v.gy(), reduction="add"))


def _needs_sums(v: Vjp) -> None:
    if v.opset < _SCATTER_ADDS:
        v.refuse(f"sums at repeated places need opset {_SCATTER_ADDS}; convert the model")


def _scatter_elements(v: Vjp) -> None:
    axis = node_facts.int_attribute(v.node, "axis")
    _scatter(
        v,
        lambda grad: v.op("ScatterElements", grad, v.x(1), v.filled(0.0, v.x(2)), axis=axis),
        lambda grad: v.op("GatherElements", grad, v.x(1), axis=axis),
    )


def _scatter_nd(v: Vjp) -> None:
    _scatter(
        v,
        lambda grad: v.op("ScatterND", grad, v.x(1), v.filled(0.0, v.x(2))),
        lambda grad: v.op("GatherND", grad, v.x(1)),
    )


def _scatter(v: Vjp, erase: Callable[[ir.Value], ir.Value], collect: Callable[[ir.Value], ir.Value]) -> None:
    """Updates get what lies at their places; data that are replaced get nothing there."""
    v.stop(1)
    reduction = node_facts.text_attribute(v.node, "reduction", "none")
    if reduction not in ("none", "add"):
        v.refuse(f"its reduction is {reduction!r}")
    if v.wants(0):
        v.give(0, v.gy() if reduction == "add" else erase(v.gy()))
    if v.wants(2):
        v.give(2, collect(v.gy()))


RULES: Mapping[Callable[[Vjp], None], str] = {
    _slice: "Slice",
    _gather: "Gather",
    _compress: "Compress",
    _gather_elements: "GatherElements",
    _gather_nd: "GatherND",
    _scatter_elements: "ScatterElements Scatter",
    _scatter_nd: "ScatterND",
}
EXTENSIONS: Mapping[Callable[[Vjp], None], str] = {_pad: "Pad", nothing: "ConstantOfShape"}
