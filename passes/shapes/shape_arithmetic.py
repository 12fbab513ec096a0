"""Small integer arithmetic that graphs do on shapes, evaluated with numpy.

Each entry of :data:`MOVES` only moves elements, so it applies to values and to their marks alike; each entry
of :data:`COMPUTES` combines elements that stand at the same place after broadcasting.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["COMPUTES", "MOST", "MOVES", "Array", "evaluate"]

MOST = 4096  # elements of a value that may be worth knowing

Array = NDArray[Any]


def _axes(node: ir.Node, inputs: Sequence[Array | None], slot: int = 1) -> tuple[int, ...] | None:
    if slot < len(inputs) and (given := inputs[slot]) is not None:
        return tuple(int(i) for i in given.reshape(-1)) or None
    axes = node.attributes.get_ints("axes", ())
    return tuple(axes) or None


def _slice(node: ir.Node, x: Array, *rest: Array | None) -> Array:
    if rest:
        starts, ends, axes, steps = (*(None if a is None else a.tolist() for a in rest), None, None)[:4]
    else:
        starts, ends = node.attributes.get_ints("starts", ()), node.attributes.get_ints("ends", ())
        axes, steps = _axes(node, ()), None
    assert starts is not None
    assert ends is not None
    index = [slice(None)] * x.ndim
    for i, axis in enumerate(axes or range(len(starts))):
        step = steps[i] if steps else 1
        end = ends[i]
        index[axis] = slice(starts[i], None if step < 0 and end < -x.shape[axis] else end, step)
    return x[tuple(index)]


def _reshape(node: ir.Node, x: Array, shape: Array | None = None) -> Array:
    wanted = node.attributes.get_ints("shape", ()) if shape is None else shape.tolist()
    copies = not node.attributes.get_int("allowzero", 0)
    return x.reshape([x.shape[i] if dim == 0 and copies else dim for i, dim in enumerate(wanted)])


def _flatten(node: ir.Node, x: Array) -> Array:
    axis = node.attributes.get_int("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _unsqueeze(node: ir.Node, x: Array, *rest: Array | None) -> Array:
    return np.asarray(np.expand_dims(x, _axes(node, (x, *rest)) or ()))


def _squeeze(node: ir.Node, x: Array, *rest: Array | None) -> Array:
    return np.squeeze(x, _axes(node, (x, *rest)))


def _concat(node: ir.Node, *xs: Array | None) -> Array:
    return np.concatenate([x for x in xs if x is not None], axis=node.attributes.get_int("axis", 0))


def _gather(node: ir.Node, x: Array, index: Array) -> Array:
    return np.take(x, index, axis=node.attributes.get_int("axis", 0))


def _expand(node: ir.Node, x: Array, shape: Array) -> Array:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist())))


def _transpose(node: ir.Node, x: Array) -> Array:
    return np.asarray(x.transpose(node.attributes.get_ints("perm", ()) or None))


MOVES: dict[str, Callable[..., Array]] = {
    "Identity": lambda node, x: x,
    "Slice": _slice,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Gather": _gather,
    "Expand": _expand,
    "Transpose": _transpose,
}


def _divide(node: ir.Node, a: Array, b: Array) -> Array:
    """Quotients, those of integers rounded towards zero (and exact, however large)."""
    return np.asarray((a - np.fmod(a, b)) // b) if a.dtype.kind in "iu" else a / b


COMPUTES: dict[str, Callable[..., Array]] = {
    "Add": lambda node, a, b: a + b,
    "Sub": lambda node, a, b: a - b,
    "Mul": lambda node, a, b: a * b,
    "Div": _divide,
    "Mod": lambda node, a, b: np.fmod(a, b) if node.attributes.get_int("fmod", 0) else np.mod(a, b),
    "Pow": lambda node, a, b: np.power(a, b).astype(a.dtype),
    "Min": lambda node, *xs: np.minimum.reduce(np.broadcast_arrays(*xs)),
    "Max": lambda node, *xs: np.maximum.reduce(np.broadcast_arrays(*xs)),
    "Neg": lambda node, x: -x,
    "Abs": lambda node, x: np.abs(x),
    "Sqrt": lambda node, x: np.sqrt(x),
    "Floor": lambda node, x: np.floor(x),
    "Ceil": lambda node, x: np.ceil(x),
    "Reciprocal": lambda node, x: 1 / x,
    "Cast": lambda node, x: x.astype(ir.DataType(node.attributes.get_int("to", 1)).numpy()),
    "Equal": lambda node, a, b: a == b,
    "Greater": lambda node, a, b: a > b,
    "Less": lambda node, a, b: a < b,
    "GreaterOrEqual": lambda node, a, b: a >= b,
    "LessOrEqual": lambda node, a, b: a <= b,
    "And": lambda node, a, b: a & b,
    "Or": lambda node, a, b: a | b,
    "Not": lambda node, x: ~x,
    "Where": lambda node, c, a, b: np.asarray(np.where(c, a, b)),
}


def _range(node: ir.Node, start: Array, limit: Array, delta: Array) -> Array:
    return np.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _constant_of_shape(node: ir.Node, shape: Array) -> Array:
    fill = node.attributes.get_tensor("value", None)
    return np.full(shape.tolist(), np.float32(0) if fill is None else fill.numpy().reshape(-1)[0])


def _range_size(node: ir.Node, start: Array, limit: Array, delta: Array) -> int:
    return int(max(0, math.ceil((limit.item() - start.item()) / delta.item())))


def _gather_size(node: ir.Node, x: Array, index: Array) -> int:
    return int(index.size * x.size // max(1, x.shape[node.attributes.get_int("axis", 0)]))


_SIZES: dict[str, Callable[..., int]] = {  # elements of what may be larger than all operands together
    "Range": _range_size,
    "ConstantOfShape": lambda node, shape: math.prod(shape.tolist()),
    "Expand": lambda node, x, shape: math.prod(np.broadcast_shapes(x.shape, tuple(shape.tolist()))),
    "Gather": _gather_size,
}


OTHERS: dict[str, Callable[..., Array]] = {
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
    "ReduceProd": lambda node, x, *axes: np.prod(
        x, axis=_axes(node, (x, *axes)), keepdims=bool(node.attributes.get_int("keepdims", 1))
    ).astype(x.dtype),
}


def evaluate(
    node: ir.Node, values: Sequence[Array | None], marks: Sequence[Array | None]
) -> tuple[Array, Array] | None:
    """Value of the node's only output, and a mark on each element that depends on a marked input element.

    Args:
        node: any node of the default domain.
        values: arrays of the node's inputs, None where an input is absent.
        marks: for each input an array of bool of the same shape.

    Returns:
        The pair, or None for an operator that is not known here, and for a value of more than ``MOST``
        elements, which is not made.
    """
    if _size(node, values) > MOST:
        return None
    if node.op_type in MOVES:
        move = MOVES[node.op_type]
        value = move(node, *values)
        if node.op_type == "Concat":
            return value, move(node, *marks)
        mark = move(node, marks[0], *values[1:])
        return value, mark | any(m is not None and m.any() for m in marks[1:])
    if node.op_type in COMPUTES:
        value = np.asarray(COMPUTES[node.op_type](node, *values))
        mark = np.zeros(value.shape, bool)
        for one in marks:
            if one is not None:
                mark = mark | one
        return value, mark
    if node.op_type in OTHERS:
        value = np.asarray(OTHERS[node.op_type](node, *values))
        return value, np.full(value.shape, any(m is not None and m.any() for m in marks))
    return None


def _size(node: ir.Node, values: Sequence[Array | None]) -> int:
    """At most so many elements the output has."""
    given = [value for value in values if value is not None]
    if node.op_type in _SIZES:
        return _SIZES[node.op_type](node, *given)
    if node.op_type in COMPUTES:
        return math.prod(np.broadcast_shapes(*(value.shape for value in given)))
    return sum(value.size for value in given)
