"""Layers that compute in integers are worked with as layers of numbers.

``QLinearConv`` is Conv of numbers that DequantizeLinear makes of its integers, and QuantizeLinear of what
comes out; likewise the others. So there is one form of a layer that is stored as integers: what is known of
its weight, its input and its bias holds for all of them. What an operator was is kept beside its node.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.names import Names, remove_if_unused
from obs_onnx.passes.graph.usage import is_used
from obs_onnx.passes.graph.writer import Writer, take_over
from obs_onnx.passes.ops import key, lookup
from obs_onnx.passes.traits.relation import Operand

__all__ = [
    "DYNAMIC",
    "FORMS",
    "MADE",
    "WAS",
    "Form",
    "OpenIntegers",
    "Was",
    "constant_input",
    "only_user",
    "shaped",
]

WAS = "obs_onnx.integer_layer"
"""Key in ``Node.meta`` of a layer of numbers that was one of integers: a :class:`Was`."""

MADE = "obs_onnx.made"
"""Key in ``Value.meta`` of a constant that follows from others, and that no file has."""

_AXES = 13  # the first opset with an axis of DequantizeLinear
_OWN = "com.microsoft"


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
    """

    key: str
    bias_rank: int = 0
    scale_rank: int = 0


@dataclass(frozen=True)
class _Factor:
    """Integers, their scale and their zero point."""

    q: ir.Value
    scale: ir.Value
    zero: ir.Value | None


@dataclass(frozen=True)
class _Read:
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

    factors: tuple[_Factor | None, _Factor | None]
    side: int
    axis: int
    outputs: int
    behind: tuple[ir.Node, ...]
    bias: ir.Value | None
    was: Was


class OpenIntegers(ir.passes.InPlacePass):
    """Write layers on integers as layers of numbers.

    1. A factor is DequantizeLinear of its integers, which several layers may read.
    2. A bias of integers has the product of the scales of the factors as its scale.
    3. What is added behind ConvInteger for each channel is a bias.
    4. DynamicQuantizeMatMul is DynamicQuantizeLinear and what follows it.

    Layers without a constant weight, or whose scales do not lie along its outputs, stay as they are.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``, whose constants are initializers."""
        found = [node for node in model.graph if key(node) in FORMS and lookup(node).foreign is None]
        names, made, count = Names(model), dict[tuple[ir.Value | None, ...], ir.Value](), 0
        for node in found:
            with node_facts.inside(node):
                read = _read(node, FORMS[key(node)])
                if read is not None:
                    _Opening(model, names, node, read, made).write()
                    count += 1
        return ir.passes.PassResult(model, modified=bool(count))


def _read(node: ir.Node, form: Form) -> _Read | None:
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
    )
    return _Read((factors[0], factors[1]), side, axis, outputs, behind, bias, was)


def _rank(value: ir.Value) -> int:
    return len(node_facts.dims(value) or ())


def _factor(node: ir.Node, one: Operand, scale: ir.Value | None) -> _Factor | None:
    q = node_facts.input_of(node, one.slot)
    zero = None if one.zero is None else node_facts.input_of(node, one.zero)
    return None if q is None or scale is None else _Factor(q, scale, zero)


def _is_single(one: _Factor) -> bool:
    """Whether one scale and one zero point hold for a whole tensor."""
    made = one.scale.producer()
    if made is not None and made.op_type == "DynamicQuantizeLinear":
        return True
    return all(
        value is None
        or ((dims := node_facts.dims(value)) is not None and math.prod(n or 0 for n in dims) == 1)
        for value in (one.scale, one.zero)
    )


def _lies_along(one: _Factor, outputs: int, place: int | None) -> bool:
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
    if scale.size == 1:
        return True
    shape = tuple(int(n) for n in scale.shape.numpy())
    return len(shape) == 1 if place is None else len(shape) >= -place and shape[place] == outputs


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


def shaped(names: Names, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
    """A constant in another shape, to which a single number is repeated; one that others read is copied."""
    tensor = value.const_value
    assert tensor is not None
    if tuple(tensor.shape.numpy()) == shape:
        return value
    if len(value.uses()) > 1 or value.is_graph_output() or value.is_graph_input():
        value = names.copy(value)
    array = tensor.numpy()
    array = np.full(shape, array.reshape(-1)[0]) if array.size == 1 else array.reshape(shape)
    value.const_value = ir.Tensor(array.astype(tensor.numpy().dtype), dtype=tensor.dtype, name=value.name)
    value.shape = ir.Shape(shape)
    return value


class _Opening:
    """Writes one layer in numbers."""

    def __init__(
        self,
        model: ir.Model,
        names: Names,
        node: ir.Node,
        read: _Read,
        made: dict[tuple[ir.Value | None, ...], ir.Value],
    ) -> None:
        self.model, self.names, self.node, self.read, self.made = model, names, node, read, made
        self.form = FORMS[read.was.key]
        self.write_before = Writer(names, node)
        scale = read.factors[read.side].scale  # type: ignore[union-attr]
        self.kind = node_facts.dtype(scale) or ir.DataType.FLOAT

    def write(self) -> None:
        """In place of the old one."""
        node, read, form = self.node, self.read, self.form
        last = read.behind[-1] if read.behind else node
        inputs: list[ir.Value | None] = [self._numbers(k) for k in (0, 1)]
        added = read.bias if not form.integer_bias else None
        if read.bias is not None and form.integer_bias:
            inputs.append(self._bias())
        kept = [one for name, one in node.attributes.items() if name not in ("channels_last", "alpha")]
        y = self._typed(self.write_before.op(form.op_type, inputs, *kept))
        layer = y.producer()
        assert layer is not None
        layer.meta[WAS] = read.was
        if added is not None:
            y = self._typed(self.write_before.op("Add", [y, added]))
        if form.result is not None and node_facts.input_of(node, form.result[0]) is not None:
            made = [node_facts.input_of(node, slot) for slot in form.result]
            y = self.write_before.op("QuantizeLinear", [y, *(one for one in made if one is not None)])
            zero = made[1]
            y.type = last.outputs[0].type or (None if zero is None else node_facts.type_of(zero))
        y.shape = last.outputs[0].shape
        take_over(self.names, last.outputs[0], y)
        self._remove([*reversed(read.behind), node])
        layer.name = node.name

    def _remove(self, nodes: Sequence[ir.Node]) -> None:
        """Nodes, users first, and the product of scales that they alone have used."""
        read = [value for node in nodes for value in node.inputs if value is not None]
        for node in nodes:
            self.model.graph.remove(node, safe=True)
        for value in read:
            made = value.producer()
            if made is not None and made.graph is not None and made.op_type == "Mul" and not is_used(value):
                read += [one for one in made.inputs if one is not None]
                self.model.graph.remove(made, safe=True)
        for value in read:
            remove_if_unused(self.model, value)

    def _typed(self, value: ir.Value) -> ir.Value:
        value.type = ir.TensorType(self.kind)
        return value

    def _numbers(self, k: int) -> ir.Value:
        factor = self.read.factors[k]
        if factor is None:
            factor = self._ranged()
        if k == self.read.side:
            return self._dequantized(self._held(factor), axis=self.read.axis)
        what = (factor.q, factor.scale, factor.zero)
        if what not in self.made:
            self.made[what] = self._dequantized(factor)
        return self.made[what]

    def _dequantized(self, one: _Factor, axis: int | None = None) -> ir.Value:
        inputs = [one.q, one.scale] if one.zero is None else [one.q, one.scale, one.zero]
        along = one.scale.const_value is not None and one.scale.const_value.size > 1
        attributes, domain = [], ""
        if along and axis is not None:
            attributes = [ir.AttrInt64("axis", axis)]
            if self.model.opset_imports.get("", _AXES) < _AXES:
                domain = _OWN
                self.model.opset_imports.setdefault(_OWN, 1)
        value = self.write_before.op("DequantizeLinear", inputs, *attributes, domain=domain)
        value.shape = one.q.shape
        return self._typed(value)

    def _ranged(self) -> _Factor:
        """A factor of numbers, turned into integers by its range."""
        x = self.node.inputs[self.form.operands[1 - self.read.side].slot]
        q, scale, zero = self.write_before.ops("DynamicQuantizeLinear", [x], outputs=3)
        q.type, zero.type = (ir.TensorType(ir.DataType.UINT8) for _ in range(2))
        scale.shape, zero.shape, q.shape = ir.Shape([]), ir.Shape([]), None if x is None else x.shape
        return _Factor(q, self._typed(scale), zero)

    def _held(self, one: _Factor) -> _Factor:
        """The same with scales and zero points as DequantizeLinear has them."""
        scale = one.scale.const_value
        assert scale is not None
        shape = () if scale.size == 1 else (scale.size,)
        zero = None if one.zero is None else shaped(self.names, one.zero, shape)
        return _Factor(one.q, shaped(self.names, one.scale, shape), zero)

    def _bias(self) -> ir.Value:
        read, bias = self.read, self.read.bias
        assert bias is not None
        if self.form.bias is None:
            return shaped(self.names, bias, (read.outputs,))
        scales = [one.scale.const_value for one in read.factors if one is not None]
        product = math.prod(one.numpy().reshape(-1) for one in scales if one is not None)
        held = np.asarray(product).astype(self.kind.numpy())
        scale = self.names.initializer(
            f"{bias.name}.scale", ir.Tensor(held.reshape(() if held.size == 1 else (-1,)), dtype=self.kind)
        )
        scale.meta[MADE] = True
        return self._dequantized(_Factor(bias, scale, None), axis=0)
