"""Gradients of rounding to integers: straight through.

The derivative of rounding is zero almost everywhere. In its place stands that of the identity where the
integer lies within its range, and zero outside (Bengio et al. 2013, arXiv 1308.3432). The gradient of a
tensor of integers is one of floating point, per step. So x that becomes integers and numbers again gets the
gradient as it is inside of the range. A scale that both read gets what Esser et al. (2020, arXiv 1902.08153,
eq. 3) give it: ``round(x / s) - x / s`` inside, the limit outside.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.traits.vjp import Vjp

__all__ = ["RULES", "integer_range"]

_KINDS = ir.DataType
_BITS = {
    **{kind: (bits, True) for kind, bits in ((_KINDS.INT4, 4), (_KINDS.INT8, 8), (_KINDS.INT16, 16))},
    **{kind: (bits, False) for kind, bits in ((_KINDS.UINT4, 4), (_KINDS.UINT8, 8), (_KINDS.UINT16, 16))},
    _KINDS.INT32: (32, True),
}


def integer_range(kind: ir.DataType | None) -> tuple[int, int] | None:
    """The lowest and the highest integer of a type; None of one that is none."""
    if kind not in _BITS:
        return None
    bits, signed = _BITS[kind]
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def _along(v: Vjp, parameter: ir.Value, x: ir.Value) -> ir.Value:
    """Scales or zero points as they are broadcast against x."""
    if node_facts.int_attribute(v.node, "block_size"):
        v.refuse("its scales hold for blocks")
    dims, rank = v.dims(parameter), v.rank(x)
    if all(n == 1 for n in dims):
        return v.reshape(parameter, []) if dims else parameter
    axis = node_facts.int_attribute(v.node, "axis", 1) % rank
    return v.reshape(parameter, [-1 if k == axis else 1 for k in range(rank)])


def _shift(v: Vjp, x: ir.Value) -> ir.Value | float:
    """Zero points as numbers of the type of x."""
    if not v.has(2):
        return 0.0
    zero = node_facts.array(v.node, 2)
    held = v.cast(v.x(2), x) if zero is None else v.constant(zero.astype(np.float64), x)
    return _along(v, held, x)


def _quantize(v: Vjp) -> None:
    x, gy, limits = v.x(), v.gy(), integer_range(v.y().dtype)
    v.stop(2)
    if limits is None:
        v.refuse("what comes out are no integers of a known type")
    scale = _along(v, v.x(1), x)
    steps = v.div(x, scale)
    q = v.add(v.op("Round", steps), _shift(v, x))
    outside = v.op("Or", v.op("Less", q, float(limits[0])), v.op("Greater", q, float(limits[1])))
    slope = v.div(v.mul(gy, v.cast(v.op("Not", outside), gy)), scale)
    v.give(0, slope)
    if v.wants(1):
        v.give(1, v.reshape_like(v.sum_to(v.neg(v.mul(slope, steps)), scale), v.x(1)))


def _dequantize(v: Vjp) -> None:
    gy = v.gy()
    v.stop(2)
    scale = _along(v, v.x(1), v.y())
    if v.wants(0):
        v.give(0, v.mul(gy, scale))
    made = v.x(1).producer()
    if made is not None and made.op_type == "DynamicQuantizeLinear":
        v.stop(1)
    elif v.wants(1):
        steps = v.sub(v.cast(v.x(0), gy), _shift(v, v.y()))
        v.give(1, v.reshape_like(v.sum_to(v.mul(gy, steps), scale), v.x(1)))


def _dynamic(v: Vjp) -> None:
    """All of x lies within the range that is made of it; scale and zero point count as given."""
    v.stop(0)
    if v.arrives(0):
        v.give(0, v.div(v.gy(0), v.y(1)))


RULES: dict[Callable[[Vjp], None], str] = {
    _quantize: "QuantizeLinear com.microsoft::QuantizeLinear",
    _dequantize: "DequantizeLinear com.microsoft::DequantizeLinear",
    _dynamic: "DynamicQuantizeLinear",
}
