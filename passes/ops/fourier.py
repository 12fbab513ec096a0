"""The discrete Fourier transform.

With F the symmetric matrix of the transform of length n over complex numbers, the inverse is conj(F) / n, so
the adjoint of one is the other up to the factor n.
"""

from __future__ import annotations

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.traits.op import Op
from obs_onnx.passes.traits.vjp import Vjp

__all__ = ["TABLE"]

_AXIS_INPUT = 20  # opset in which the axis became an input


def _vjp(v: Vjp) -> None:
    v.stop(1, 2)
    x, inverse = v.x(), node_facts.int_attribute(v.node, "inverse")
    if v.has(1) or node_facts.int_attribute(v.node, "onesided"):
        v.refuse("it pads, cuts or returns half of the spectrum")
    axis, operands, attributes = _axis(v)
    back = v.op("DFT", v.gy(), *operands, inverse=1 - inverse, **attributes)
    length = v.dims(x)[axis]
    n = float(length) if length is not None else v.cast(v.size_of(x, axis), x)
    grad = v.div(back, n) if inverse else v.mul(back, n)
    if v.dims(x)[-1] == 1:
        grad = v.slice(grad, [0], [1], [v.rank(x) - 1])
    v.give(0, grad)


def _axis(v: Vjp) -> tuple[int, list[ir.Value | None], dict[str, int]]:
    """The axis, and the operands and attributes that say it."""
    if v.opset < _AXIS_INPUT:
        axis = node_facts.int_attribute(v.node, "axis", 1)
        return axis, [], {"axis": axis}
    given = v.ints_of(2) if v.has(2) else (-2,)
    if given is None:
        v.refuse("its axis is computed at run time")
    return given[0], [None, v.x(2)] if v.has(2) else [], {}


TABLE = {"DFT": Op(vjp=_vjp)}
