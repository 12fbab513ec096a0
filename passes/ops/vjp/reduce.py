"""Gradients of the reductions: what arrives at a result is spread over the elements that it came from."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.traits.op import nothing
from obs_onnx.passes.traits.vjp import Vjp

__all__ = ["RULES"]


def _axes(v: Vjp) -> list[int] | None:
    """The reduced axes; None when they are computed at run time."""
    axes = node_facts.axes(v.node)
    if axes is None:
        return None
    if not axes and not node_facts.int_attribute(v.node, "noop_with_empty_axes"):
        return list(range(v.rank(v.x())))
    return list(axes)


def _keeping(v: Vjp, value: ir.Value) -> ir.Value:
    """``value``, of the shape of the output, with the reduced axes as ones."""
    if node_facts.int_attribute(v.node, "keepdims", 1):
        return value
    axes = _axes(v)
    return v.op("Unsqueeze", value, v.x(1)) if axes is None else v.unsqueeze(value, axes)


def _reduced(v: Vjp, op_type: str, value: ir.Value) -> ir.Value:
    """``value``, of the shape of the input, reduced over the same axes, which stay as ones."""
    axes = _axes(v)
    if axes is None:
        return v.op(op_type, value, v.x(1), keepdims=1)
    return v.reduce(op_type, value, axes, keepdims=True)


def _spread(v: Vjp, grad: ir.Value) -> None:
    """``grad`` has ones on the reduced axes, or the shape of the input already."""
    v.stop(1)
    v.give(0, v.expand_like(grad, v.x()))


def _sum(v: Vjp) -> None:
    _spread(v, _keeping(v, v.gy()))


def _mean(v: Vjp) -> None:
    axes, dims = _axes(v), v.dims(v.x())
    lengths = None if axes is None else [dims[axis] for axis in axes]
    if lengths is not None and None not in lengths:
        share = v.mul(v.gy(), 1.0 / math.prod(n for n in lengths if n is not None))
    else:
        count = v.op("Div", v.op("Size", v.x()), v.op("Size", v.y()))
        share = v.div(v.gy(), v.cast(count, v.gy()))
    _spread(v, _keeping(v, share))


def _l1(v: Vjp) -> None:
    _spread(v, v.mul(v.op("Sign", v.x()), _keeping(v, v.gy())))


def _l2(v: Vjp) -> None:
    """x / |x|, taken as zero at x = 0."""
    norm = v.where(v.op("Equal", v.y(), 0.0), 1.0, v.y())
    _spread(v, v.mul(v.x(), _keeping(v, v.div(v.gy(), norm))))


def _sum_square(v: Vjp) -> None:
    _spread(v, v.mul(v.x(), _keeping(v, v.mul(v.gy(), 2.0))))


def _log_sum(v: Vjp) -> None:
    _spread(v, _keeping(v, v.mul(v.gy(), v.op("Exp", v.neg(v.y())))))


def _log_sum_exp(v: Vjp) -> None:
    softmax = v.op("Exp", v.sub(v.x(), _keeping(v, v.y())))
    _spread(v, v.mul(softmax, _keeping(v, v.gy())))


def _prod(v: Vjp) -> None:
    """The product of the others: zero where another factor is zero, without dividing by zeros."""
    zero = v.op("Equal", v.x(), 0.0)
    factors = v.where(zero, 1.0, v.x())
    zeros = v.cast(zero, v.x())
    others = v.sub(_reduced(v, "ReduceSum", zeros), zeros)
    alone = v.cast(v.op("Equal", others, 0.0), v.x())
    product = v.div(_reduced(v, "ReduceProd", factors), factors)
    _spread(v, v.mul(v.mul(product, alone), _keeping(v, v.gy())))


def _extreme(v: Vjp) -> None:
    """Elements that are equal to the extreme share its gradient."""
    hit = v.cast(v.op("Equal", v.x(), _keeping(v, v.y())), v.x())
    share = v.div(_keeping(v, v.gy()), _reduced(v, "ReduceSum", hit))
    _spread(v, v.mul(hit, share))


def _cumulative_sum(v: Vjp) -> None:
    v.stop(1)
    reverse, exclusive = (node_facts.int_attribute(v.node, name) for name in ("reverse", "exclusive"))
    v.give(0, v.op("CumSum", v.gy(), v.x(1), reverse=1 - reverse, exclusive=exclusive))


def _top_k(v: Vjp) -> None:
    v.stop(1)
    axis = node_facts.int_attribute(v.node, "axis", -1)
    v.give(0, v.op("ScatterElements", v.filled(0.0, v.x()), v.y(1), v.gy(), axis=axis))


RULES: dict[Callable[[Vjp], None], str] = {
    nothing: "ArgMax ArgMin",
    _sum: "ReduceSum",
    _mean: "ReduceMean",
    _l1: "ReduceL1",
    _l2: "ReduceL2",
    _sum_square: "ReduceSumSquare",
    _log_sum: "ReduceLogSum",
    _log_sum_exp: "ReduceLogSumExp",
    _prod: "ReduceProd",
    _extreme: "ReduceMax ReduceMin",
    _cumulative_sum: "CumSum",
    _top_k: "TopK",
}
