"""Gradients of the elementwise operators of several operands, which are broadcast against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.traits.vjp import Vjp

__all__ = ["RULES", "distribute"]


def distribute(v: Vjp, grads: Sequence[ir.Value]) -> None:
    """Undo the broadcast of each operand."""
    for index, grad in enumerate(grads):
        if v.wants(index):
            v.give(index, v.sum_to(grad, v.x(index)))


def _sum(v: Vjp) -> None:
    distribute(v, [v.gy()] * len(v.node.inputs))


def _mean(v: Vjp) -> None:
    count = len(v.node.inputs)
    distribute(v, [v.mul(v.gy(), 1.0 / count)] * count)


def _sub(v: Vjp) -> None:
    if v.wants(0):
        v.give(0, v.sum_to(v.gy(), v.x(0)))
    if v.wants(1):
        v.give(1, v.neg(v.sum_to(v.gy(), v.x(1))))


def _mul(v: Vjp) -> None:
    a, b = v.two()
    if v.wants(0):
        v.give(0, v.sum_to(v.mul(v.gy(), b), a))
    if v.wants(1):
        v.give(1, v.sum_to(v.mul(v.gy(), a), b))


def _div(v: Vjp) -> None:
    """y = a / b: dy/da = 1 / b, dy/db = -y / b."""
    a, b = v.two()
    share = v.div(v.gy(), b)
    if v.wants(0):
        v.give(0, v.sum_to(share, a))
    if v.wants(1):
        v.give(1, v.neg(v.sum_to(v.mul(share, v.y()), b)))


def _pow(v: Vjp) -> None:
    """y = a^b: dy/da = b a^(b - 1), dy/db = y log a, which is taken as zero where a is not positive."""
    a, b = v.two()
    if v.wants(0):
        exponent = node_facts.array(v.node, 1)
        number = float(exponent.reshape(-1)[0]) if exponent is not None and exponent.size == 1 else None
        v.give(0, v.sum_to(v.mul(v.gy(), _power_slope(v, a, b, number)), a))
    if v.wants(1):
        log = v.op("Log", v.where(v.op("Greater", a, 0.0), a, 1.0))
        v.give(1, v.sum_to(v.mul(v.gy(), v.mul(v.y(), log)), b))


def _power_slope(v: Vjp, a: ir.Value, b: ir.Value, number: float | None) -> ir.Value:
    if number is None:
        b = v.cast(b, a)
        return v.mul(b, v.op("Pow", a, v.sub(b, 1.0)))
    if number in (0.0, 1.0):
        return v.constant(number, like=a)
    if number == 2.0:
        return v.mul(a, 2.0)
    return v.mul(v.op("Pow", a, v.constant(number - 1.0, like=a)), number)


def _mod(v: Vjp) -> None:
    """y = a - q b with an integer q that is constant almost everywhere."""
    a, b = v.two()
    if v.wants(0):
        v.give(0, v.sum_to(v.gy(), a))
    if v.wants(1):
        quotient = v.op("Round", v.div(v.sub(v.y(), a), b))
        v.give(1, v.sum_to(v.mul(v.gy(), quotient), b))


def _extreme(v: Vjp) -> None:
    """The first operand that is equal to the result gets the gradient."""
    free: ir.Value | None = None
    last = len(v.node.inputs) - 1
    for index in range(last + 1):
        hit = free if index == last and free is not None else v.op("Equal", v.x(index), v.y())
        taken = hit if free is None or index == last else v.op("And", hit, free)
        if v.wants(index):
            v.give(index, v.sum_to(v.mul(v.gy(), v.cast(taken, v.y())), v.x(index)))
        missed = v.op("Not", hit)
        free = missed if free is None else v.op("And", missed, free)


def _where(v: Vjp) -> None:
    condition = v.x(0)
    if v.wants(1):
        v.give(1, v.sum_to(v.where(condition, v.gy(), 0.0), v.x(1)))
    if v.wants(2):
        v.give(2, v.sum_to(v.where(condition, 0.0, v.gy()), v.x(2)))


RULES: Mapping[Callable[[Vjp], None], str] = {
    _sum: "Add Sum com.microsoft::BiasAdd",
    _mean: "Mean",
    _sub: "Sub",
    _mul: "Mul",
    _div: "Div",
    _pow: "Pow",
    _mod: "Mod",
    _extreme: "Max Min",
    _where: "Where",
}
