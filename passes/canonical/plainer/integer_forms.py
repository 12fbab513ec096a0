"""Layers that compute in integers: which there are, and what is read of one.

Scales and zero points of the weight are single, or lie along its outputs; those of the other factor are
single.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.ops import key
from obs_onnx.passes.traits.relation import Operand

__all__ = [
    "DYNAMIC",
    "FORMS",
    "WAS",
    "Factor",
    "Form",
    "Read",
    "Was",
    "constant_input",
    "only_user",
    "read_layer",
]

WAS = "obs_onnx.integer_layer"
"""Key in ``Node.meta`` of a layer of numbers that was one of integers: a :class:`Was`."""


@dataclass(frozen=True)
class Form:
    """An operator on integers as one on numbers.

    Attributes:
        op_type: of the operator on numbers, whose inputs are the operands and the bias.
        operands: its two factors, where they stand among the inputs of the operator on integers; those
            without a scale have it behind the operator.
        bias: where its bias stands, if it has one.
        integer_bias: whether that is of integers, whose scale is the product of those of the factors.
        result: where scale and zero point of its result stand; None: it puts out numbers, or sums of
            integers.
    """

    op_type: str
    operands: tuple[Operand, Operand]
    bias: int | None = None
    integer_bias: bool = True
    result: tuple[int, int] | None = None

    @property
    def is_scaled_behind(self) -> bool:
        """Whether scales are no inputs of the operator."""
        return self.operands[1].scale is None


_CONV = Form("Conv", (Operand(0, 1, 2), Operand(3, 4, 5, (0,))), 8, result=(6, 7))
DYNAMIC = "com.microsoft::DynamicQuantizeMatMul"
FORMS: Mapping[str, Form] = {
    "QLinearConv": _CONV,
    "com.microsoft::QLinearConv": _CONV,
    "QLinearMatMul": Form("MatMul", (Operand(0, 1, 2, (-2,)), Operand(3, 4, 5, (-1,))), result=(6, 7)),
    "com.microsoft::QGemm": Form("Gemm", (Operand(0, 1, 2), Operand(3, 4, 5, (-1,))), 6, result=(7, 8)),
    "ConvInteger": Form("Conv", (Operand(0, zero=2), Operand(1, zero=3, axes=(0,)))),
    "MatMulInteger": Form("MatMul", (Operand(0, zero=2, axes=(-2,)), Operand(1, zero=3, axes=(-1,)))),
    "com.microsoft::MatMulIntegerToFloat": Form(
        "MatMul", (Operand(0, 2, 4), Operand(1, 3, 5, (-1,))), 6, integer_bias=False
    ),
    DYNAMIC: Form("MatMul", (Operand(0), Operand(1, 2, 3, (-1,))), 4, integer_bias=False),
}
"""Layers on integers. QGemm of a transposed weight has its scales along the first axis."""


@dataclass(frozen=True)
class Was:
    """What a layer of numbers was.

    Attributes:
        key: of the operator on integers, see :data:`FORMS`.
        bias_rank: axes of a bias that was added behind a convolution; 0 where there was none.
        scale_rank: axes of scales that stood behind the operator.
        single_zero: whether one zero point held for all outputs, whose scales differ.
    """

    key: str
    bias_rank: int = 0
    scale_rank: int = 0
    single_zero: bool = False


@dataclass(frozen=True)
class Factor:
    """Integers, their scale and their zero point."""

    q: ir.Value
    scale: ir.Value
    zero: ir.Value | None


@dataclass(frozen=True)
class Read:
    """What is read of a layer on integers.

    Attributes:
        factors: in the order of the inputs; None for one that is still of numbers.
        side: which of them is the weight.
        axis: of the weight, along which its outputs lie.
        outputs: how many they are.
        behind: nodes that scale its result, or add the bias to it.
        bias: where there is one.
        was: what it was.
    """

    factors: tuple[Factor | None, Factor | None]
    side: int
    axis: int
    outputs: int
    behind: tuple[ir.Node, ...]
    bias: ir.Value | None
    was: Was


def read_layer(node: ir.Node, form: Form) -> Read | None:
    """What a node of a form is, or None where it stays as it is."""
    held = [node_facts.constant(node, one.slot) for one in form.operands]
    if (held[0] is None) == (held[1] is None) or node_facts.int_attribute(node, "channels_last"):
        return None
    side = 0 if held[1] is None else 1
    weight, shape = form.operands[side], node_facts.dims(node.inputs[form.operands[side].slot]) or ()
    if len(shape) < 2 or (form.op_type == "Conv" and side == 0):
        return None
    if node_facts.float_attribute(node, "alpha", 1.0) != 1.0:
        return None
    axis = (weight.axes or (-1,))[0] % len(shape)
    if node_facts.int_attribute(node, "transB"):
        axis = len(shape) - 2
    outputs = int(shape[axis] or 0)
    scales = [None if one.scale is None else node_facts.input_of(node, one.scale) for one in form.operands]
    behind: tuple[ir.Node, ...] = ()
    bias = None if form.bias is None else node_facts.input_of(node, form.bias)
    if form.is_scaled_behind:
        scaled = _scaled(node, form, side)
        if scaled is None:
            return None
        scales, behind = list(scaled[0]), scaled[1]
        add = _added(behind[-1].outputs[0], outputs, len(shape)) if form.op_type == "Conv" else None
        if add is not None:
            bias, behind = add.inputs[constant_input(add)], (*behind, add)
    factors = tuple(_factor(node, one, scale) for one, scale in zip(form.operands, scales, strict=True))
    stored = factors[side]
    place = (1 - len(shape) if form.op_type == "Conv" else axis - len(shape)) if behind else None
    if stored is None or not _lies_along(stored, outputs, place):
        return None
    other = factors[1 - side]
    if (other is not None and not _is_single(other)) or (other is None and key(node) != DYNAMIC):
        return None
    if form.integer_bias and form.bias is not None and bias is not None:
        constants = (bias, stored.scale, None if other is None else other.scale)
        if any(one is None or one.const_value is None for one in constants):
            return None
    scale = stored.scale.const_value
    was = Was(
        key(node),
        _rank(bias) if behind and bias is not None else 0,
        0 if scale is None else len(tuple(scale.shape.numpy())),
        _has_single_zero(stored),
    )
    return Read((factors[0], factors[1]), side, axis, outputs, behind, bias, was)


def _rank(value: ir.Value) -> int:
    return len(node_facts.dims(value) or ())


def _factor(node: ir.Node, one: Operand, scale: ir.Value | None) -> Factor | None:
    q = node_facts.input_of(node, one.slot)
    zero = None if one.zero is None else node_facts.input_of(node, one.zero)
    return None if q is None or scale is None else Factor(q, scale, zero)


def _is_single(one: Factor) -> bool:
    """Whether one scale and one zero point hold for a whole tensor."""
    made = one.scale.producer()
    if made is not None and made.op_type == "DynamicQuantizeLinear":
        return True
    return all(
        value is None
        or ((dims := node_facts.dims(value)) is not None and math.prod(n or 0 for n in dims) == 1)
        for value in (one.scale, one.zero)
    )


def _lies_along(one: Factor, outputs: int, place: int | None) -> bool:
    """Whether scales and zero points are constant, single or one for each output.

    Args:
        one: the weight.
        outputs: how many there are.
        place: of the outputs among the axes of the result, where scales are broadcast against that.
    """
    scale, zero = one.scale.const_value, None if one.zero is None else one.zero.const_value
    if scale is None or (one.zero is not None and zero is None) or scale.size not in (1, outputs):
        return False
    if zero is not None and zero.size not in (1, scale.size):
        return False
    if _has_single_zero(one) and zero is not None and not _is_middle(zero):
        return False
    if scale.size == 1:
        return True
    shape = tuple(int(n) for n in scale.shape.numpy())
    return len(shape) == 1 if place is None else len(shape) >= -place and shape[place] == outputs


def _has_single_zero(one: Factor) -> bool:
    """Whether outputs with scales of their own share a zero point, which runtimes may rely on."""
    scale, zero = one.scale.const_value, None if one.zero is None else one.zero.const_value
    return scale is not None and zero is not None and zero.size == 1 < scale.size


def _is_middle(zero: ir.TensorProtocol) -> bool:
    """Whether a zero point is one that new weights keep."""
    limits = np.iinfo(zero.dtype.numpy())
    return int(zero.numpy().reshape(-1)[0]) == (limits.min + limits.max + 1) // 2


def _scaled(
    node: ir.Node, form: Form, side: int
) -> tuple[tuple[ir.Value, ir.Value], tuple[ir.Node, ...]] | None:
    """Scales of the factors, with which a sum of integers is multiplied, and the nodes that do it."""
    cast = only_user(node.outputs[0])
    if (
        cast is None
        or cast.op_type != "Cast"
        or node_facts.int_attribute(cast, "to") not in node_facts.FLOATS
    ):
        return None
    chain, scales = [cast], list[ir.Value]()
    while len(scales) < 2:
        product = only_user(chain[-1].outputs[0])
        if product is None or product.op_type != "Mul" or product.domain:
            return None
        other = product.inputs[1 if product.inputs[0] is chain[-1].outputs[0] else 0]
        made = None if other is None else other.producer()
        if other is None or other is chain[-1].outputs[0]:
            return None
        inner = made.inputs if made is not None and made.op_type == "Mul" and not scales else (other,)
        scales += [value for value in inner if value is not None]
        chain.append(product)
    own = _own_scale(node.inputs[form.operands[1 - side].slot])
    constant = [value.is_initializer() and value is not own for value in scales]
    if len(scales) != 2 or sum(constant) != 1:
        return None
    first, second = scales if constant[side] else reversed(scales)
    return (first, second), tuple(chain)


def _own_scale(q: ir.Value | None) -> ir.Value | None:
    """The scale by which integers were made, where that is next to them."""
    made = None if q is None else q.producer()
    if made is None or made.op_type not in ("QuantizeLinear", "DynamicQuantizeLinear"):
        return None
    return made.inputs[1] if made.op_type == "QuantizeLinear" else made.outputs[1]


def only_user(value: ir.Value) -> ir.Node | None:
    """The node that alone reads a value, if there is one."""
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    return next(iter(uses)).node


def constant_input(add: ir.Node) -> int:
    """Which of the two inputs of a node is constant; the second where none is."""
    return 0 if node_facts.constant(add, 0) is not None else 1


def _added(y: ir.Value, outputs: int, rank: int) -> ir.Node | None:
    """The Add of a constant with an element for each channel of a convolution's result, and no other use."""
    add = only_user(y)
    if add is None or add.op_type != "Add" or add.domain:
        return None
    value = add.inputs[constant_input(add)]
    if value is None or value.const_value is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    shape = tuple(int(n) for n in value.const_value.shape.numpy())
    fits = rank - 1 <= len(shape) <= rank and shape[1 - rank] == outputs == math.prod(shape)
    return add if fits else None
