"""Gradients of the elementwise operators of one input.

Functions of one input are given by their derivative, in terms of x or of y = f(x); the rule multiplies it
with the gradient of y. Where y will do, x need not be kept, and runtimes can still fuse f with the operator
in front of it. At kinks the derivative of one side is taken (zero for Relu and Clip).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.ops.vjp.operands import distribute
from obs_onnx.passes.traits.op import nothing
from obs_onnx.passes.traits.vjp import Vjp

__all__ = ["RULES"]

Rule = Callable[[Vjp], None]

_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875
_TANH_GELU = math.sqrt(2.0 / math.pi), 0.044715


def _chain(derivative: Callable[[Vjp], ir.Value | float]) -> Rule:
    """``gx = gy * f'(x)``."""

    def rule(v: Vjp) -> None:
        slope = derivative(v)
        v.give(0, v.mul(v.gy(), slope))

    return rule


def _mask(v: Vjp, comparison: str, a: ir.Value, b: ir.Value | float) -> ir.Value:
    """One where the comparison holds, else zero."""
    return v.cast(v.op(comparison, a, b), v.x())


def _one_minus(v: Vjp, x: ir.Value) -> ir.Value:
    return v.sub(1.0, x)


def _square(v: Vjp, x: ir.Value) -> ir.Value:
    return v.mul(x, x)


def _attribute(v: Vjp, default: float, name: str = "alpha") -> float:
    return node_facts.float_attribute(v.node, name, default)


# elementary functions


def _root_slope(v: Vjp, inside: ir.Value, sign: float = 1.0) -> ir.Value:
    """``sign / sqrt(inside)``."""
    return v.div(sign, v.op("Sqrt", inside))


def _tanh(v: Vjp) -> ir.Value:
    return _one_minus(v, _square(v, v.y()))


def _sigmoid(v: Vjp) -> ir.Value:
    return v.mul(v.y(), _one_minus(v, v.y()))


def _tan(v: Vjp) -> ir.Value:
    return v.add(_square(v, v.y()), 1.0)


def _asin(v: Vjp, sign: float) -> ir.Value:
    return _root_slope(v, _one_minus(v, _square(v, v.x())), sign)


def _asinh(v: Vjp, shift: float) -> ir.Value:
    return _root_slope(v, v.add(_square(v, v.x()), shift))


def _atan(v: Vjp) -> ir.Value:
    return v.op("Reciprocal", v.add(_square(v, v.x()), 1.0))


def _atanh(v: Vjp) -> ir.Value:
    return v.op("Reciprocal", _one_minus(v, _square(v, v.x())))


def _erf(v: Vjp) -> ir.Value:
    return v.mul(v.op("Exp", v.neg(_square(v, v.x()))), 2.0 / math.sqrt(math.pi))


def _softsign(v: Vjp) -> ir.Value:
    return v.op("Reciprocal", _square(v, v.add(v.op("Abs", v.x()), 1.0)))


def _log(v: Vjp) -> None:
    v.give(0, v.div(v.gy(), v.x()))


def _sqrt(v: Vjp) -> None:
    v.give(0, v.div(v.mul(v.gy(), 0.5), v.y()))


def _neg(v: Vjp) -> None:
    v.give(0, v.neg(v.gy()))


# activations


def _relu(v: Vjp) -> ir.Value:
    return _mask(v, "Greater", v.y(), 0.0)


def _leaky(v: Vjp) -> ir.Value:
    """Slope 1 on the right of zero and alpha on the left."""
    alpha = _attribute(v, 0.01)
    right = _mask(v, "Greater", v.y() if alpha >= 0.0 else v.x(), 0.0)
    return v.add(v.mul(right, 1.0 - alpha), alpha)


def _exponential(v: Vjp, right: float, left: ir.Value) -> ir.Value:
    return v.where(v.op("Greater", v.x(), 0.0), right, left)


def _elu(v: Vjp) -> ir.Value:
    """y = alpha (exp(x) - 1) on the left, so y' = y + alpha."""
    return _exponential(v, 1.0, v.add(v.y(), _attribute(v, 1.0)))


def _selu(v: Vjp) -> ir.Value:
    alpha, gamma = _attribute(v, _SELU_ALPHA), _attribute(v, _SELU_GAMMA, "gamma")
    return _exponential(v, gamma, v.add(v.y(), alpha * gamma))


def _celu(v: Vjp) -> ir.Value:
    """y = alpha (exp(x / alpha) - 1) on the left, so y' = y / alpha + 1."""
    return _exponential(v, 1.0, v.add(v.mul(v.y(), 1.0 / _attribute(v, 1.0)), 1.0))


def _hard_sigmoid(v: Vjp) -> ir.Value:
    inside = v.op("And", v.op("Greater", v.y(), 0.0), v.op("Less", v.y(), 1.0))
    return v.mul(v.cast(inside, v.x()), _attribute(v, 0.2))


def _hard_swish(v: Vjp) -> ir.Value:
    """y = x h with h = min(max(x / 6 + 1/2, 0), 1)."""
    h = v.op("HardSigmoid", v.x(), alpha=1.0 / 6.0, beta=0.5)
    inside = _mask(v, "Less", v.op("Abs", v.x()), 3.0)
    return v.add(h, v.mul(v.mul(v.x(), inside), 1.0 / 6.0))


def _swish(v: Vjp, default: float) -> ir.Value:
    """y = x s with s = sigmoid(alpha x): y' = s + alpha y (1 - s)."""
    alpha = _attribute(v, default)
    s = v.op("Sigmoid", v.mul(v.x(), alpha))
    return v.add(s, v.mul(v.mul(v.y(), alpha), _one_minus(v, s)))


def _mish(v: Vjp) -> ir.Value:
    """y = x t with t = tanh(softplus(x)): y' = t + x (1 - t^2) sigmoid(x)."""
    t = v.op("Tanh", v.op("Softplus", v.x()))
    inner = v.mul(_one_minus(v, _square(v, t)), v.op("Sigmoid", v.x()))
    return v.add(t, v.mul(v.x(), inner))


def _erf_gelu_slope(v: Vjp, x: ir.Value) -> ir.Value:
    """Phi(x) + x phi(x), the distribution and density of the standard normal."""
    cdf = v.mul(v.add(v.op("Erf", v.mul(x, math.sqrt(0.5))), 1.0), 0.5)
    density = v.mul(v.op("Exp", v.mul(_square(v, x), -0.5)), 1.0 / math.sqrt(2.0 * math.pi))
    return v.add(cdf, v.mul(x, density))


def _tanh_gelu_slope(v: Vjp, x: ir.Value) -> ir.Value:
    """y = x (1 + t) / 2 with t = tanh(c (x + k x^3))."""
    c, k = _TANH_GELU
    squared = _square(v, x)
    t = v.op("Tanh", v.mul(v.mul(x, c), v.add(v.mul(squared, k), 1.0)))
    inner = v.mul(v.add(v.mul(squared, 3.0 * k), 1.0), c)
    right = v.mul(v.mul(x, _one_minus(v, _square(v, t))), inner)
    return v.mul(v.add(v.add(t, 1.0), right), 0.5)


def _gelu(v: Vjp) -> ir.Value:
    tanh = node_facts.text_attribute(v.node, "approximate", "none") == "tanh"
    return _tanh_gelu_slope(v, v.x()) if tanh else _erf_gelu_slope(v, v.x())


def _biased(v: Vjp, slope: Callable[[Vjp, ir.Value], ir.Value]) -> None:
    """An activation of the sum of x and an optional bias."""
    total = v.add(v.x(0), v.x(1)) if v.has(1) else v.x(0)
    grad = v.mul(v.gy(), slope(v, total))
    distribute(v, [grad] * len(v.node.inputs))


def _shrink(v: Vjp) -> ir.Value:
    return _mask(v, "Greater", v.op("Abs", v.x()), _attribute(v, 0.5, "lambd"))


def _prelu(v: Vjp) -> None:
    x, slope = v.two()
    if v.wants(0):
        v.give(0, v.mul(v.gy(), v.where(v.op("Less", x, 0.0), slope, 1.0)))
    if v.wants(1):
        v.give(1, v.sum_to(v.mul(v.gy(), v.op("Min", x, 0.0)), slope))


def _clip(v: Vjp) -> None:
    """A bound gets the gradient where it holds; the upper one holds where they contradict each other."""
    if v.wants(0):
        above = v.op("Greater", v.y(), v.x(1)) if v.has(1) else None
        below = v.op("Less", v.y(), v.x(2)) if v.has(2) else None
        inside = v.op("And", above, below) if above and below else above or below
        v.give(0, v.mul(v.gy(), v.cast(inside, v.x())) if inside else v.gy())
    if v.wants(1):
        raised = v.op("Less", v.x(0), v.x(1))
        if v.has(2):
            raised = v.op("And", raised, v.op("Not", v.op("Greater", v.x(1), v.x(2))))
        v.give(1, v.sum_to(v.mul(v.gy(), v.cast(raised, v.gy())), v.x(1)))
    if v.wants(2):
        raised_x = v.op("Max", v.x(0), v.x(1)) if v.has(1) else v.x(0)
        v.give(2, v.sum_to(v.mul(v.gy(), _mask(v, "Greater", raised_x, v.x(2))), v.x(2)))


# types and noise


def _identity(v: Vjp) -> None:
    v.give(0, v.gy())


def _cast(v: Vjp) -> None:
    v.give(0, v.cast(v.gy(), v.x()))
    v.stop(1)


def _dropout(v: Vjp) -> None:
    """The identity, except in training mode, where the mask must be there."""
    v.stop(1, 2)
    training = node_facts.array(v.node, 2) if v.has(2) else False
    if training is not None and not bool(training):
        v.give(0, v.gy())
        return
    if training is None or len(v.node.outputs) < 2:
        v.refuse("its mask in training mode is not an output")
    kept = v.sub(1.0, v.cast(v.x(1), v.gy())) if v.has(1) else v.constant(0.5, like=v.gy())
    v.give(0, v.div(v.mul(v.gy(), v.cast(v.y(1), v.gy())), kept))


_erf_gelu = partial(_biased, slope=_erf_gelu_slope)
_tanh_gelu = partial(_biased, slope=_tanh_gelu_slope)

RULES: dict[Rule, str] = {
    nothing: """
        Not And Or Xor Equal Greater Less GreaterOrEqual LessOrEqual IsNaN IsInf Sign Floor Ceil Round
        Bernoulli BitwiseAnd BitwiseOr BitwiseXor BitwiseNot BitShift
    """,
    _chain(lambda v: v.y()): "Exp",
    _chain(lambda v: v.op("Sign", v.x())): "Abs",
    _chain(lambda v: v.op("Cos", v.x())): "Sin",
    _chain(lambda v: v.neg(v.op("Sin", v.x()))): "Cos",
    _chain(_tan): "Tan",
    _chain(partial(_asin, sign=1.0)): "Asin",
    _chain(partial(_asin, sign=-1.0)): "Acos",
    _chain(_atan): "Atan",
    _chain(lambda v: v.op("Cosh", v.x())): "Sinh",
    _chain(lambda v: v.op("Sinh", v.x())): "Cosh",
    _chain(_tanh): "Tanh",
    _chain(partial(_asinh, shift=1.0)): "Asinh",
    _chain(partial(_asinh, shift=-1.0)): "Acosh",
    _chain(_atanh): "Atanh",
    _chain(lambda v: v.neg(_square(v, v.y()))): "Reciprocal",
    _chain(_erf): "Erf",
    _chain(_sigmoid): "Sigmoid",
    _chain(_softsign): "Softsign",
    _chain(lambda v: v.op("Sigmoid", v.x())): "Softplus",
    _chain(_relu): "Relu",
    _chain(lambda v: _mask(v, "Greater", v.x(), _attribute(v, 1.0))): "ThresholdedRelu",
    _chain(_leaky): "LeakyRelu",
    _chain(_elu): "Elu",
    _chain(_selu): "Selu",
    _chain(_celu): "Celu",
    _chain(_hard_sigmoid): "HardSigmoid",
    _chain(_hard_swish): "HardSwish",
    _chain(partial(_swish, default=1.0)): "Swish",
    _chain(partial(_swish, default=1.702)): "com.microsoft::QuickGelu",
    _chain(_mish): "Mish",
    _chain(_gelu): "Gelu",
    _chain(_shrink): "Shrink",
    _erf_gelu: "com.microsoft::Gelu com.microsoft::BiasGelu",
    _tanh_gelu: "com.microsoft::FastGelu",
    _log: "Log",
    _sqrt: "Sqrt",
    _neg: "Neg",
    _clip: "Clip",
    _prelu: "PRelu",
    _identity: "Identity",
    _cast: "Cast CastLike",
    _dropout: "Dropout",
}
