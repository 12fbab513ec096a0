"""Vector-Jacobian products of the normalizations and of the softmax family.

With x^ = (x - mean) r, where r = 1 / sqrt(variance + epsilon), and g the gradient of x^,

    dx = r (g - mean(g) - x^ mean(g x^))

(Ioffe and Szegedy, Batch Normalization, 2015); without centring the second term is absent. The statistics are
computed again, in single precision at least, so that the rules can be differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.traits.vjp import Vjp

__all__ = ["RULES", "over_root_mean_square"]


def _wide(v: Vjp, value: ir.Value) -> ir.Value:
    """``value`` in single precision where it has less."""
    if value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        return v.op("Cast", value, to=int(ir.DataType.FLOAT))
    return value


class _Normalized:
    """``x^`` of x over ``axes``, and what turns its gradient into that of x."""

    def __init__(
        self, v: Vjp, x: ir.Value, axes: Sequence[int], epsilon: float, centred: bool = True
    ) -> None:
        self.v, self.x, self.axes, self.is_centred = v, x, axes, centred
        wide = _wide(v, x)
        difference = v.sub(wide, v.mean(wide, axes, keepdims=True)) if centred else wide
        variance = v.mean(v.mul(difference, difference), axes, keepdims=True)
        self.rest = v.op("Reciprocal", v.op("Sqrt", v.add(variance, epsilon)))
        self.wide = v.mul(difference, self.rest)

    @property
    def value(self) -> ir.Value:
        """x^ in the type of x."""
        return self.v.cast(self.wide, self.x)

    def pull_back(self, grad: ir.Value) -> ir.Value:
        """Gradient of x from that of x^."""
        v, g = self.v, _wide(self.v, grad)
        along = v.mul(self.wide, v.mean(v.mul(g, self.wide), self.axes, keepdims=True))
        if self.is_centred:
            g = v.sub(g, v.mean(g, self.axes, keepdims=True))
        return v.cast(v.mul(self.rest, v.sub(g, along)), self.x)


def _affine(v: Vjp, n: _Normalized, slots: tuple[int, int]) -> ir.Value:
    """Gradients of scale and shift at ``slots``, broadcast against the last axes; returns that of x^."""
    scale, shift = slots
    if v.wants(scale):
        v.give(scale, v.sum_to(v.mul(v.gy(), n.value), v.x(scale)))
    if v.wants(shift):
        v.give(shift, v.sum_to(v.gy(), v.x(shift)))
    return v.mul(v.gy(), v.x(scale)) if v.has(scale) else v.gy()


def _only_first(v: Vjp, others: Sequence[int] = (1, 2)) -> None:
    if any(v.arrives(index) for index in others):
        v.refuse("its statistics are used")


def over_root_mean_square(v: Vjp, x: ir.Value, axis: int, epsilon: float) -> ir.Value:
    """``x / sqrt(mean(x * x) + epsilon)`` along an axis, in operators that have derivatives."""
    return v.div(x, v.op("Sqrt", v.add(v.mean(v.mul(x, x), [axis], keepdims=True), epsilon)))


def _layer(v: Vjp, centred: bool = True) -> None:
    _only_first(v)
    rank = v.rank(v.x())
    axes = list(range(node_facts.int_attribute(v.node, "axis", -1) % rank, rank))
    n = _Normalized(v, v.x(), axes, node_facts.float_attribute(v.node, "epsilon", 1e-5), centred)
    grad = _affine(v, n, (1, 2))
    if v.wants(0):
        v.give(0, n.pull_back(grad))


def _rms(v: Vjp) -> None:
    _layer(v, centred=False)


def _skip(v: Vjp, centred: bool = True, bias: int = 4) -> None:
    """Of the sum of two inputs and a bias, which is the fourth output."""
    _only_first(v)
    total = v.add(v.x(0), v.x(1))
    if v.has(bias):
        total = v.add(total, v.x(bias))
    n = _Normalized(
        v, total, [v.rank(total) - 1], node_facts.float_attribute(v.node, "epsilon", 1e-12), centred
    )
    grad = _affine(v, n, (2, 3 if centred else -1))
    if not any(v.wants(slot) for slot in (0, 1, bias)):
        return
    grad = n.pull_back(grad)
    if v.arrives(3):
        grad = v.add(grad, v.gy(3))
    for slot in (0, 1, bias):
        if v.wants(slot):
            v.give(slot, v.sum_to(grad, v.x(slot)))


def _skip_rms(v: Vjp) -> None:
    _skip(v, centred=False, bias=3)


def _per_channel(v: Vjp, parameter: ir.Value) -> ir.Value:
    """A vector as a column behind which the places of x lie."""
    return v.unsqueeze(parameter, list(range(1, v.rank(v.x()) - 1)))


def _over_places(v: Vjp, value: ir.Value) -> ir.Value:
    """Sum over all axes but the channels."""
    return v.sum(value, [axis for axis in range(v.rank(value)) if axis != 1])


def _batch(v: Vjp) -> None:
    """``(x - mean) r scale + shift`` with stored mean and variance."""
    if node_facts.int_attribute(v.node, "training_mode"):
        v.refuse("it computes batch statistics; export the model for inference")
    x, scale, mean, variance = v.x(0), v.x(1), v.x(3), v.x(4)
    epsilon = node_facts.float_attribute(v.node, "epsilon", 1e-5)
    rest = v.op("Reciprocal", v.op("Sqrt", v.add(variance, epsilon)))
    slope = v.mul(scale, rest)
    if v.wants(0):
        v.give(0, v.mul(v.gy(), _per_channel(v, v.cast(slope, x))))
    if not any(v.wants(slot) for slot in (1, 2, 3, 4)):
        return
    total = _over_places(v, _wide(v, v.gy()))
    v.give(2, v.cast(total, v.x(2)))
    v.give(3, v.cast(v.neg(v.mul(v.cast(total, slope), slope)), mean))
    if v.wants(1) or v.wants(4):
        centred = v.sub(x, _per_channel(v, v.cast(mean, x)))
        product = v.cast(_over_places(v, _wide(v, v.mul(v.gy(), centred))), rest)
        v.give(1, v.cast(v.mul(product, rest), scale))
        if v.wants(4):
            v.give(4, v.mul(v.mul(product, slope), v.mul(v.mul(rest, rest), -0.5)))


def _instance(v: Vjp) -> None:
    axes = list(range(2, v.rank(v.x())))
    n = _Normalized(v, v.x(), axes, node_facts.float_attribute(v.node, "epsilon", 1e-5))
    if v.wants(1):
        v.give(1, _over_places(v, v.mul(v.gy(), n.value)))
    if v.wants(2):
        v.give(2, _over_places(v, v.gy()))
    if v.wants(0):
        v.give(0, n.pull_back(v.mul(v.gy(), _per_channel(v, v.x(1)))))


def _group(v: Vjp) -> None:
    """Groups are instances of one long axis; before opset 21 each has one number of scale and shift."""
    groups = node_facts.int_attribute(v.node, "num_groups", 1)
    x, scale = v.x(0), v.x(1)
    channels, per_group = v.dims(x)[1], v.dims(scale)[0]
    if channels is None or per_group is None:
        v.refuse("the number of channels is unknown")
    n = _Normalized(
        v, v.reshape(x, [0, groups, -1]), [2], node_facts.float_attribute(v.node, "epsilon", 1e-5)
    )
    share = channels // groups if per_group == groups and groups != channels else 1

    def folded(value: ir.Value) -> ir.Value:
        total = _over_places(v, value)
        return total if share == 1 else v.sum(v.reshape(total, [groups, share]), [1])

    if v.wants(1):
        v.give(1, folded(v.mul(v.gy(), v.reshape_like(n.value, x))))
    if v.wants(2):
        v.give(2, folded(v.gy()))
    if v.wants(0):
        if share != 1:
            spread = v.op("Expand", v.unsqueeze(scale, [1]), v.ints([groups, share]))
            scale = v.reshape(spread, [channels])
        grad = v.mul(v.gy(), _per_channel(v, scale))
        v.give(0, v.reshape_like(n.pull_back(v.reshape(grad, [0, groups, -1])), x))


def _mean_variance(v: Vjp) -> None:
    """No scale, no shift; the standard deviation is kept from zero by 1e-9."""
    axes = node_facts.ints_attribute(v.node, "axes", (0, 2, 3))
    v.give(0, _Normalized(v, v.x(), axes, 1e-18).pull_back(v.gy()))


def _norm(v: Vjp) -> None:
    """``y = x / |x|_p``: dx = (gy - s sum(gy y)) / |x|_p, where s is y for p = 2 and sign(x) for p = 1."""
    x, y, axis = v.x(), v.y(), [node_facts.int_attribute(v.node, "axis", -1) % v.rank(v.x())]
    if node_facts.int_attribute(v.node, "p", 2) == 2:
        length, slope = v.op("Sqrt", v.sum(v.mul(x, x), axis, keepdims=True)), y
    else:
        length, slope = v.sum(v.op("Abs", x), axis, keepdims=True), v.op("Sign", x)
    zero = v.op("Equal", length, 0.0)
    along = v.mul(slope, v.sum(v.mul(v.gy(), y), axis, keepdims=True))
    quotient = v.div(v.sub(v.gy(), along), v.where(zero, 1.0, length))
    v.give(0, v.where(zero, 0.0, quotient))


def _local(v: Vjp) -> None:
    """``y = x b^-beta`` with b = bias + alpha / size (sum of x^2 over neighbouring channels).

    dx = gy b^-beta - 2 beta alpha / size x N^T (gy x b^(-beta-1)), where N is the matrix of neighbours.
    """
    x, gy = v.x(), v.gy()
    channels = v.dims(x)[1]
    if channels is None:
        v.refuse("the number of channels is unknown")
    size = node_facts.int_attribute(v.node, "size", 1)
    alpha, beta = (node_facts.float_attribute(v.node, k, d) for k, d in (("alpha", 1e-4), ("beta", 0.75)))
    offset_CC = np.arange(channels)[None, :] - np.arange(channels)[:, None]
    near_CC = (offset_CC >= -((size - 1) // 2)) & (offset_CC <= size // 2)
    flat, flat_gy = v.reshape(x, [0, channels, -1]), v.reshape(gy, [0, channels, -1])
    squares = v.op("MatMul", v.constant(near_CC * (alpha / size), x), v.mul(flat, flat))
    base = v.add(squares, node_facts.float_attribute(v.node, "bias", 1.0))
    power = v.op("Pow", base, v.constant(-beta, x))
    inner = v.div(v.mul(v.mul(flat_gy, flat), power), base)
    spread = v.op("MatMul", v.constant(near_CC.T * (2 * beta * alpha / size), x), inner)
    v.give(0, v.reshape_like(v.sub(v.mul(flat_gy, power), v.mul(flat, spread)), x))


def _softmax_axes(v: Vjp) -> list[int]:
    """Before opset 13 all axes from ``axis`` on are one."""
    rank = v.rank(v.x())
    if v.opset >= 13:
        return [node_facts.int_attribute(v.node, "axis", -1) % rank]
    return list(range(node_facts.int_attribute(v.node, "axis", 1) % rank, rank))


def _softmax(v: Vjp) -> None:
    """dx = y (gy - sum(gy y)).

    Rows of minus infinity alone are no numbers; where they are left out behind, nothing flows into them.
    """
    y = v.where(v.op("IsNaN", v.y()), 0.0, v.y()) if _is_chosen_from(v.y()) else v.y()
    product = v.mul(v.gy(), y)
    v.give(0, v.sub(product, v.mul(y, v.sum(product, _softmax_axes(v), keepdims=True))))


def _is_chosen_from(value: ir.Value) -> bool:
    """Whether a Where decides which elements of ``value`` count."""
    return any(
        use.node.op_type == "Where" or (use.node.op_type == "Cast" and _is_chosen_from(use.node.outputs[0]))
        for use in value.uses()
    )


def _log_softmax(v: Vjp) -> None:
    """dx = gy - exp(y) sum(gy)."""
    total = v.sum(v.gy(), _softmax_axes(v), keepdims=True)
    v.give(0, v.sub(v.gy(), v.mul(v.op("Exp", v.y()), total)))


RULES: Mapping[Callable[[Vjp], None], str] = {
    _batch: "BatchNormalization",
    _instance: "InstanceNormalization",
    _layer: "LayerNormalization",
    _rms: "RMSNormalization SimplifiedLayerNormalization",
    _skip: "com.microsoft::SkipLayerNormalization",
    _skip_rms: "com.microsoft::SkipSimplifiedLayerNormalization",
    _group: "GroupNormalization",
    _mean_variance: "MeanVarianceNormalization",
    _norm: "LpNormalization",
    _local: "LRN",
    _softmax: "Softmax",
    _log_softmax: "LogSoftmax",
}
