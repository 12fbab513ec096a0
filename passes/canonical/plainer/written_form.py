"""Inverse of what was opened to work with: blocks are packed, layers compute in integers again."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.canonical.plainer.blocks import PackBlocks
from obs_onnx.passes.canonical.plainer.factors import FACTOR, MergeFactors
from obs_onnx.passes.canonical.plainer.integer_forms import (
    DYNAMIC,
    FORMS,
    WAS,
    Form,
    Was,
    constant_input,
    only_user,
)
from obs_onnx.passes.canonical.plainer.integer_layers import first_of, shaped
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.names import Names, remove_if_unused
from obs_onnx.passes.graph.usage import is_used
from obs_onnx.passes.graph.writer import Writer, take_over
from obs_onnx.passes.ops.quantized.weights import BLOCKS

__all__ = ["CloseIntegers", "WriteForms", "in_integers", "remove_unread", "written_form"]

_LOWEST, _HIGHEST = -(2**31), 2**31 - 1  # of a bias
_FOR_IT = ("DequantizeLinear", "DynamicQuantizeLinear")
_SAME = 1e-4  # of a scale, that a bias may be off


def written_form(model: ir.Model) -> ir.Model:
    """``model`` itself, or where something in it was opened a copy in the form in which it is written."""
    blocks = any(BLOCKS in value.meta for value in model.graph.initializers.values())
    if not blocks and not any(WAS in node.meta or FACTOR in node.meta for node in model.graph):
        return model
    copy = model.clone()
    WriteForms().call(copy)
    return copy


def in_integers(model: ir.Model) -> ir.Model:
    """The same, with blocks as they are."""
    if not any(WAS in node.meta for node in model.graph):
        return model
    copy = model.clone()
    CloseIntegers().call(copy)
    return copy


class WriteForms(ir.passes.InPlacePass):
    """Pack blocks, close layers on integers, and multiply out factors that save nothing."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run these passes on ``model``."""
        packed = PackBlocks().call(model).modified
        closed = CloseIntegers().call(model).modified
        merged = MergeFactors().call(model).modified
        return ir.passes.PassResult(model, modified=packed or closed or merged)


class CloseIntegers(ir.passes.InPlacePass):
    """Inverse of :class:`obs_onnx.passes.canonical.plainer.integer_layers.OpenIntegers`.

    A layer beside which something else has come by now stays as it is, which gives the same numbers.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        names, count = Names(model), 0
        for node in list(model.graph):
            was = node.meta.get(WAS)
            if isinstance(was, Was):
                closing = _Closing(model, names, node, was)
                if closing.fits:
                    closing.write()
                    count += 1
        return ir.passes.PassResult(model, modified=bool(count))


class _Closing:
    """Writes one layer on integers."""

    def __init__(self, model: ir.Model, names: Names, node: ir.Node, was: Was) -> None:
        self.model, self.names, self.node, self.was = model, names, node, was
        self.form: Form = FORMS[was.key]
        self.made = [_dequantize(value) for value in node.inputs[:2]]
        self.last = node
        follower = only_user(node.outputs[0])
        if follower is not None and self._goes_along(follower):
            self.last = follower

    def _goes_along(self, follower: ir.Node) -> bool:
        """Whether what follows is part of the layer: the rounding of its result, or its bias."""
        if self.form.integer_bias:
            return follower.op_type == "QuantizeLinear" and self.form.result is not None
        added = follower.op_type == "Add" and not follower.domain
        return added and node_facts.constant(follower, constant_input(follower)) is not None

    @property
    def fits(self) -> bool:
        """Whether nothing has come in between."""
        weights = [one is not None and node_facts.constant(one, 0) is not None for one in self.made]
        if None in self.made or sum(weights) != 1:
            return False
        if self.form.result is not None and self.last is self.node and self.was.key != "com.microsoft::QGemm":
            return False
        x = self.made[1 - weights.index(True)]
        if self.was.key == DYNAMIC and (x is None or _ranged(x) is None):
            return False
        bias = node_facts.input_of(self.node, 2)
        if bias is None or bias.is_initializer():
            return True
        made = _dequantize(bias)
        return made is not None and node_facts.constant(made, 0) is not None

    def write(self) -> None:
        """In place of the layer of numbers."""
        domain, _, op_type = self.was.key.rpartition("::")
        write, form = Writer(self.names, self.last), self.form
        kept = [
            one
            for name, one in self.node.attributes.items()
            if self.was.key != "com.microsoft::QGemm" or name != "beta"
        ]
        found = self._inputs()
        inputs = [found.get(slot) for slot in range(max(found) + 1)]
        y = write.op(op_type, inputs, *kept, domain=domain)
        layer = y.producer()
        if form.is_scaled_behind:
            y = self._scaled(write, y)
        old = self.last.outputs[0]
        y.type, y.shape = old.type, old.shape
        take_over(self.names, old, y)
        for node in dict.fromkeys((self.last, self.node)):
            remove_unread(self.model, node)
        assert layer is not None
        layer.name = self.node.name

    def _inputs(self) -> dict[int, ir.Value | None]:
        form, found = self.form, dict[int, ir.Value | None]()
        for one, made in zip(form.operands, self.made, strict=True):
            assert made is not None
            if one.zero is None:
                found[one.slot] = _ranged(made)
                continue
            found[one.slot] = made.inputs[0]
            if one.scale is not None:
                found[one.scale] = made.inputs[1]
            zero = node_facts.input_of(made, 2)
            if self.was.single_zero and zero is not None and zero.const_value is not None:
                zero = first_of(self.names, zero)
            found[one.zero] = self._zero(made) if zero is None and form.result is not None else zero
        if form.result is not None and self.last is not self.node:
            found |= dict(
                zip(form.result, (self.last.inputs[1], node_facts.input_of(self.last, 2)), strict=True)
            )
            if found[form.result[1]] is None:
                found[form.result[1]] = self._constant(np.zeros((), np.uint8))
        if form.bias is not None:
            found[form.bias] = self._bias()
        return {slot: value for slot, value in found.items() if value is not None}

    def _constant(self, array: NDArray[np.generic]) -> ir.Value:
        return self.names.initializer(f"{self.node.name}.constant", ir.Tensor(array))

    def _zero(self, made: ir.Node) -> ir.Value:
        """Zero points that the operator needs, and DequantizeLinear does not."""
        q, scale = made.inputs[:2]
        assert q is not None
        kind, dims = node_facts.dtype(q) or ir.DataType.UINT8, node_facts.dims(scale) or ()
        return self._constant(np.zeros([n or 1 for n in dims], kind.numpy()))

    def _bias(self) -> ir.Value | None:
        if not self.form.integer_bias:
            return None if self.last is self.node else self.last.inputs[constant_input(self.last)]
        bias = node_facts.input_of(self.node, 2)
        scales = [node_facts.array(one, 1) for one in self.made if one is not None]
        if bias is None or any(one is None for one in scales):
            return None
        step = math.prod(one.astype(np.float64).reshape(-1) for one in scales if one is not None)
        made = _dequantize(bias)
        if made is None:
            held = bias.const_value
            numbers = np.zeros(1) if held is None else held.numpy().astype(np.float64)
        else:
            q, scale = node_facts.array(made, 0), node_facts.array(made, 1)
            assert q is not None
            assert scale is not None
            if np.allclose(scale.astype(np.float64).reshape(-1), step, rtol=_SAME, atol=0.0):
                return made.inputs[0]
            numbers = q.astype(np.float64) * scale.astype(np.float64)
            bias = made.inputs[0] or bias
        q = np.clip(np.rint(numbers / step), _LOWEST, _HIGHEST).astype(np.int32)
        return self.names.initializer(str(bias.name), ir.Tensor(q))

    def _scaled(self, write: Writer, y: ir.Value) -> ir.Value:
        """Sums of integers as numbers, with the bias."""
        y.type = ir.TensorType(ir.DataType.INT32)
        first, second = (None if one is None else one.inputs[1] for one in self.made)
        assert first is not None
        assert second is not None
        kind = node_facts.dtype(second) or ir.DataType.FLOAT
        rank = len(node_facts.dims(None if self.made[1] is None else self.made[1].inputs[0]) or ())
        place = 1 - rank if self.form.op_type == "Conv" else -1
        factors = [self._broadcast(one, place, self.was.scale_rank) for one in (first, second)]
        number = write.op("Cast", [y], ir.AttrInt64("to", int(kind)))
        number.type = ir.TensorType(kind)
        y = write.op("Mul", [number, write.op("Mul", factors)])
        bias = node_facts.input_of(self.node, 2)
        if bias is None:
            return y
        return write.op("Add", [y, self._broadcast(bias, place, max(self.was.bias_rank, -place))])

    def _broadcast(self, value: ir.Value, place: int, rank: int) -> ir.Value:
        """A vector of constants with its elements along an axis of the result."""
        tensor = value.const_value
        if tensor is None or tensor.size == 1:
            return value
        rank = max(rank, -place)
        return shaped(self.names, value, tuple(tensor.size if k == rank + place else 1 for k in range(rank)))


def remove_unread(model: ir.Model, node: ir.Node) -> None:
    """Remove a node whose results nothing reads, and what made nothing but its inputs from integers."""
    inputs = list(node.inputs)
    model.graph.remove(node, safe=True)
    for value in inputs:
        made = None if value is None else value.producer()
        if made is None:
            remove_if_unused(model, value)
        elif made.graph is not None and made.op_type in _FOR_IT and not any(map(is_used, made.outputs)):
            remove_unread(model, made)


def _dequantize(value: ir.Value | None) -> ir.Node | None:
    made = None if value is None else value.producer()
    return made if made is not None and made.op_type == "DequantizeLinear" else None


def _ranged(made: ir.Node) -> ir.Value | None:
    """What a factor was before it was turned into integers by its range; None where that was not so."""
    node = None if made.inputs[0] is None else made.inputs[0].producer()
    own = node is not None and node.op_type == "DynamicQuantizeLinear"
    if node is None or not own or list(made.inputs) != list(node.outputs):
        return None if made.inputs[0] is None or not made.inputs[0].is_initializer() else made.inputs[0]
    return node.inputs[0]
