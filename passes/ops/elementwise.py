"""Operators that work on each element by itself, alone or together with a broadcast second operand.

The bounds are the largest absolute slopes of the functions, rounded up in the last digit.
"""

from __future__ import annotations

import math
from dataclasses import replace

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.ops.quantized.blocks import spread
from obs_onnx.passes.ops.quantized.counterpart import counterpart, ranged
from obs_onnx.passes.ops.quantized.straight_through import RULES as STRAIGHT_THROUGH
from obs_onnx.passes.ops.vjp.elementwise import RULES
from obs_onnx.passes.ops.vjp.operands import RULES as OPERANDS
from obs_onnx.passes.traits.lipschitz import broadcast, constant_or, data_only, largest, pointwise
from obs_onnx.passes.traits.op import Op, differentiable, related
from obs_onnx.passes.traits.relation import Operand, Relation

__all__ = ["TABLE"]


def _alpha(default: float, name: str = "alpha") -> Op:
    """Slope ``alpha`` on one side of zero and one on the other."""
    return Op(
        lipschitz=data_only(lambda node: max(1.0, abs(node_facts.float_attribute(node, name, default))))
    )


def _slope(default: float, name: str = "alpha") -> Op:
    """Slope ``alpha`` at most."""
    return Op(lipschitz=data_only(lambda node: abs(node_facts.float_attribute(node, name, default))))


def _selu(node: ir.Node) -> float:
    alpha = node_facts.float_attribute(node, "alpha", 1.67326319217681884765625)
    gamma = node_facts.float_attribute(node, "gamma", 1.05070102214813232421875)
    return abs(gamma) * max(1.0, abs(alpha))


def _prelu(node: ir.Node) -> tuple[float | None, ...]:
    slope = largest(node, 1)
    return (None if slope is None else max(1.0, slope)), constant_or(node, 1, None)


def _celu(node: ir.Node) -> float | None:
    return 1.0 if node_facts.float_attribute(node, "alpha", 1.0) > 0.0 else None


def _dropout(node: ir.Node) -> float | None:
    """The identity, unless it is training, or may be."""
    training = node_facts.array(node, 2)
    idle = node_facts.input_of(node, 2) is None if training is None else not training.any()
    return 1.0 if idle else None


def _cast(node: ir.Node) -> float | None:
    """Between types of which none has so few bits that rounding is a step."""
    return 1.0 if all(v.dtype in node_facts.FLOATS for v in (node.inputs[0], *node.outputs) if v) else None


def _mul(node: ir.Node) -> tuple[float | None, ...]:
    """Scaling by a constant; the product of two activations has no bound."""
    return tuple(constant_or(node, i, _scaled(node, i, largest(node, 1 - i))) for i in (0, 1))


def _div(node: ir.Node) -> tuple[float | None, ...]:
    divisor = node_facts.array(node, 1)
    slope = None
    if divisor is not None and divisor.size and divisor.dtype.kind not in "iub":
        smallest = float(abs(divisor.astype(float)).min())
        slope = None if smallest == 0.0 else 1.0 / smallest
    return constant_or(node, 0, _scaled(node, 0, slope)), constant_or(node, 1, None)


def _scaled(node: ir.Node, index: int, slope: float | None) -> float | None:
    factor = broadcast(node, index)
    return None if slope is None or factor is None else slope * factor


def _mean(node: ir.Node) -> tuple[float | None, ...]:
    share = 1.0 / max(1, len(node.inputs))
    return tuple(constant_or(node, i, _scaled(node, i, share)) for i in range(len(node.inputs)))


def _pow(node: ir.Node) -> tuple[float | None, ...]:
    exponent = node_facts.array(node, 1)
    linear = exponent is not None and bool((exponent.astype(float) == 1.0).all())
    return constant_or(node, 0, _scaled(node, 0, 1.0 if linear else None)), constant_or(node, 1, None)


def _where(node: ir.Node) -> tuple[float | None, ...]:
    """A choice between two values; the choice itself has no bound."""
    return constant_or(node, 0, None), *(_scaled_or_zero(node, i) for i in (1, 2))


def _scaled_or_zero(node: ir.Node, index: int) -> float | None:
    return constant_or(node, index, broadcast(node, index))


def _bias_gelu(node: ir.Node) -> tuple[float | None, ...]:
    return tuple(constant_or(node, i, _scaled(node, i, _GELU)) for i in range(len(node.inputs)))


_GELU = 1.1290  # x Phi(x) at sqrt(2)
_TANH_GELU = 1.1291

_ONE = Op(lipschitz=data_only(1.0))
_NONE = Op(lipschitz=data_only(None))
_ONE_EACH = Op(lipschitz=pointwise(1.0))
_SUM = replace(_ONE_EACH, additive=True)
_DISCRETE = Op(lipschitz=pointwise(None))
_ONCE = Op(lipschitz=data_only(1.0), idempotent=True)
_ROUNDED = Op(lipschitz=data_only(None), decides=True, idempotent=True)
_INTEGERS = Op(quantizes=True)
_COMPARISON = Op(lipschitz=pointwise(None), decides=True)


def _relate(r: Relation) -> None:
    """Axes that are broadcast against each other are one; an axis of size 1 says nothing."""
    axes = r.broadcast([r.axes(slot) for slot in range(len(r.node.inputs)) if r.has(slot)])
    for index in range(len(r.node.outputs)):
        r.give(axes, index)


def _relate_first(r: Relation) -> None:
    """Only the first input matters, the others are parameters without axes."""
    for slot in range(1, len(r.node.inputs)):
        if r.has(slot):
            r.fix(r.axes(slot))
    for index in range(len(r.node.outputs)):
        r.give(r.axes(0), index)


def _relate_cast_like(r: Relation) -> None:
    """Of the second input only the type matters."""
    r.leave(*r.axes(1))
    r.give(r.axes(0))


def _relate_blocks(r: Relation, block_size: int) -> None:
    """Each element of scale and zero point serves a block of elements along one axis."""
    axes = r.axes(0)
    along = r.integer("axis", 1) % len(axes)
    for slot in range(1, len(r.node.inputs)):
        if r.has(slot):
            for axis, labels in enumerate(r.axes(slot)):
                n = len(axes[axis])
                r.tie(axes[axis], spread(labels, block_size, n) if axis == along else labels)


def _relate_quantize(r: Relation) -> None:
    """Scale and zero point lie along one axis of the tensor."""
    axes = r.axes(0)
    block_size = r.integer("block_size")
    r.among([Operand(0, 1, 2, axes=(r.integer("axis", 1),), block=block_size)])
    if block_size:
        _relate_blocks(r, block_size)
    else:
        for slot in range(1, len(r.node.inputs)):
            if r.has(slot) and len(parameter := r.axes(slot)) == 1 and len(parameter[0]) > 1:
                r.tie(axes[r.integer("axis", 1)], parameter[0])
    r.give(axes)


def _relate_dynamic(r: Relation) -> None:
    """Operand of the shape of the input; scale and zero point are one for all of it."""
    ranged(r)
    r.give(r.axes(0))
    for index in filter(r.is_shaped, (1, 2)):
        r.give([], index)


_relate_one = counterpart(_relate, Operand(0, 1, 2))
_relate_two = counterpart(_relate, Operand(0, 1, 2), Operand(3, 4, 5))
_relate_choice = counterpart(_relate, Operand(0), Operand(1, 2, 3), Operand(4, 5, 6))

_BROADCAST = """
Add Sub Mul Div Pow Min Max Mean Sum Mod And Or Xor Not Equal Greater Less GreaterOrEqual LessOrEqual
BitwiseAnd BitwiseOr BitwiseXor BitwiseNot BitShift Where PRelu Identity Cast Relu LeakyRelu Elu Selu Celu
Gelu Mish ThresholdedRelu Sigmoid HardSigmoid HardSwish Swish Softplus Softsign Tanh Sin Cos Tan Asin Acos
Atan Sinh Cosh Asinh Acosh Atanh Exp Log Sqrt Reciprocal Neg Abs Sign Floor Ceil Round Erf IsNaN IsInf Clip
Shrink com.microsoft::Gelu com.microsoft::FastGelu com.microsoft::QuickGelu com.microsoft::BiasGelu
com.microsoft::BiasAdd
"""

_KNOWN = related(
    {
        # slope one at most
        "Relu": _ONCE,
        "Tanh": _ONE,
        "Abs": _ONCE,
        "Neg": _ONE,
        "Sin": _ONE,
        "Cos": _ONE,
        "Atan": _ONE,
        "Asinh": _ONE,
        "Softplus": _ONE,
        "Softsign": _ONE,
        "Celu": Op(lipschitz=data_only(_celu)),
        "Clip": _ONCE,
        "Identity": Op(lipschitz=data_only(1.0), view=True),
        "Dropout": Op(lipschitz=data_only(_dropout)),
        "Shrink": _NONE,
        "ThresholdedRelu": _NONE,
        # another slope
        "LeakyRelu": _alpha(0.01),
        "Elu": _alpha(1.0),
        "Selu": Op(lipschitz=data_only(_selu)),
        "PRelu": Op(lipschitz=_prelu, learnt=(1,)),
        "Sigmoid": Op(lipschitz=data_only(0.25)),
        "HardSigmoid": _slope(0.2),
        "HardSwish": Op(lipschitz=data_only(1.5)),
        "Swish": Op(lipschitz=data_only(1.0999)),
        "Mish": Op(lipschitz=data_only(1.0886)),
        "Gelu": Op(lipschitz=data_only(_TANH_GELU)),
        "Erf": Op(lipschitz=data_only(2.0 / math.sqrt(math.pi))),
        "Cast": Op(lipschitz=data_only(_cast)),
        "CastLike": Op(lipschitz=data_only(_cast), differentiable_inputs=1),
        "com.microsoft::Gelu": Op(lipschitz=data_only(_GELU)),
        "com.microsoft::QuickGelu": Op(lipschitz=data_only(1.0999)),
        "com.microsoft::BiasGelu": Op(lipschitz=_bias_gelu),
        "com.microsoft::FastGelu": Op(lipschitz=_bias_gelu),
        # two operands and more
        "Add": _SUM,
        "Sub": _SUM,
        "Sum": _SUM,
        "Max": _ONE_EACH,
        "Min": _ONE_EACH,
        "Mean": Op(lipschitz=_mean),
        "Mul": Op(lipschitz=_mul, annihilates=(0, 1)),
        "Div": Op(lipschitz=_div),
        "Pow": Op(lipschitz=_pow),
        "Where": Op(lipschitz=_where),
        # no bound: unbounded slopes, or steps
        "Exp": _NONE,
        "Log": _NONE,
        "Sqrt": _NONE,
        "Reciprocal": _NONE,
        "Tan": _NONE,
        "Asin": _NONE,
        "Acos": _NONE,
        "Sinh": _NONE,
        "Cosh": _NONE,
        "Acosh": _NONE,
        "Atanh": _NONE,
        "Sign": _ROUNDED,
        "Floor": _ROUNDED,
        "Ceil": _ROUNDED,
        "Round": _ROUNDED,
        "Not": _NONE,
        "IsNaN": _NONE,
        "IsInf": _NONE,
        "Mod": _DISCRETE,
        "And": _DISCRETE,
        "Or": _DISCRETE,
        "Xor": _DISCRETE,
        "Equal": _COMPARISON,
        "Less": _COMPARISON,
        "LessOrEqual": _COMPARISON,
        "Greater": _COMPARISON,
        "GreaterOrEqual": _COMPARISON,
        "Bernoulli": Op(decides=True, random=True),
        "QuantizeLinear": Op(lipschitz=data_only(None), decides=True, quantizes=True),
        "DequantizeLinear": Op(lipschitz=data_only(None), quantizes=True),
        "DynamicQuantizeLinear": Op(lipschitz=data_only(None), decides=True, quantizes=True),
        "com.microsoft::QuantizeLinear": Op(decides=True, quantizes=True),
        "com.microsoft::DequantizeLinear": Op(quantizes=True),
        "com.microsoft::QLinearAdd": _INTEGERS,
        "com.microsoft::QLinearMul": _INTEGERS,
        "com.microsoft::QLinearWhere": _INTEGERS,
        "com.microsoft::QLinearSigmoid": _INTEGERS,
        "com.microsoft::QLinearLeakyRelu": _INTEGERS,
    },
    {
        _relate: _BROADCAST,
        _relate_first: "Dropout Bernoulli",
        _relate_cast_like: "CastLike",
        _relate_quantize: """
            QuantizeLinear DequantizeLinear com.microsoft::QuantizeLinear com.microsoft::DequantizeLinear
        """,
        _relate_dynamic: "DynamicQuantizeLinear",
        _relate_one: "com.microsoft::QLinearSigmoid com.microsoft::QLinearLeakyRelu",
        _relate_two: "com.microsoft::QLinearAdd com.microsoft::QLinearMul",
        _relate_choice: "com.microsoft::QLinearWhere",
    },
)

TABLE = differentiable(_KNOWN, {**RULES, **OPERANDS, **STRAIGHT_THROUGH})
