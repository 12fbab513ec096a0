"""Layers that compute in integers are worked with as layers of numbers.

``QLinearConv`` is Conv of numbers that DequantizeLinear makes of its integers, and QuantizeLinear of what
comes out; likewise the others. So there is one form of a layer that is stored as integers: what is known of
its weight, its input and its bias holds for all of them. What an operator was is kept beside its node.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.canonical.plainer.integer_forms import FORMS, WAS, Factor, Read, read_layer
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.names import Names, remove_if_unused
from obs_onnx.passes.graph.usage import is_used
from obs_onnx.passes.graph.writer import Writer, take_over
from obs_onnx.passes.ops import key, lookup

__all__ = ["MADE", "OpenIntegers", "first_of", "opened", "shaped"]

MADE = "obs_onnx.made"
"""Key in ``Value.meta`` of a constant that follows from others, and that no file has."""

_AXES = 13  # the first opset with an axis of DequantizeLinear
_OWN = "com.microsoft"


def opened(model: ir.Model) -> ir.Model:
    """``model`` itself, or where layers compute in integers a copy with layers of numbers in their places."""
    if not any(key(node) in FORMS for node in model.graph):
        return model
    copy = model.clone()
    OpenIntegers().call(copy)
    return copy


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
                read = read_layer(node, FORMS[key(node)])
                if read is not None:
                    _Opening(model, names, node, read, made).write()
                    count += 1
        return ir.passes.PassResult(model, modified=bool(count))


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


def first_of(names: Names, value: ir.Value) -> ir.Value:
    """A constant of equal numbers as a single one; one that others read is copied."""
    tensor = value.const_value
    assert tensor is not None
    array = tensor.numpy().reshape(-1)[:1].reshape(())
    if len(value.uses()) > 1:
        value = names.copy(value)
    value.const_value, value.shape = ir.Tensor(array, dtype=tensor.dtype, name=value.name), ir.Shape(())
    return value


class _Opening:
    """Writes one layer in numbers."""

    def __init__(
        self,
        model: ir.Model,
        names: Names,
        node: ir.Node,
        read: Read,
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

    def _dequantized(self, one: Factor, axis: int | None = None) -> ir.Value:
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

    def _ranged(self) -> Factor:
        """A factor of numbers, turned into integers by its range."""
        x = self.node.inputs[self.form.operands[1 - self.read.side].slot]
        q, scale, zero = self.write_before.ops("DynamicQuantizeLinear", [x], outputs=3)
        q.type, zero.type = (ir.TensorType(ir.DataType.UINT8) for _ in range(2))
        scale.shape, zero.shape, q.shape = ir.Shape([]), ir.Shape([]), None if x is None else x.shape
        return Factor(q, self._typed(scale), zero)

    def _held(self, one: Factor) -> Factor:
        """The same with scales and zero points as DequantizeLinear has them."""
        scale = one.scale.const_value
        assert scale is not None
        shape = () if scale.size == 1 else (scale.size,)
        zero = None if one.zero is None else shaped(self.names, one.zero, shape)
        return Factor(one.q, shaped(self.names, one.scale, shape), zero)

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
        return self._dequantized(Factor(bias, scale, None), axis=0)
