"""Weights that are stored as integers, trained as numbers that a graph rounds before it reads them.

Each step computes with the rounded weight and moves the one behind it, which gathers what is smaller than a
step of the integers. The gradient goes straight through the rounding
(:mod:`obs_onnx.passes.ops.quantized.straight_through`). Scales and zero points stay; zeros of a weight are
zeros of the integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.emitter import Emitter
from obs_onnx.passes.graph.names import Names, add_initializer, remove_if_unused
from obs_onnx.passes.graph.usage import is_used
from obs_onnx.passes.graph.writer import Writer, take_over
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.ops.quantized.weights import integers_behind
from obs_onnx.passes.traits.linear import Integers

__all__ = ["Rounding", "in_numbers", "read_rounded"]


@dataclass(frozen=True)
class Rounding:
    """Integers and scales behind a weight.

    Attributes:
        form: how it is stored.
        arrays: contents of its initializers.
        scale: of the weight's type, broadcast against it.
        lowest, highest: integers less zero points, likewise.
    """

    form: Integers
    arrays: Mapping[str, NDArray[Any]]
    scale: NDArray[np.floating]
    lowest: NDArray[np.floating]
    highest: NDArray[np.floating]

    @classmethod
    def of(cls, form: Integers, arrays: Mapping[str, NDArray[Any]]) -> Rounding:
        """That of a tensor, which is trained transposed where it lies packed."""
        scale, zero = form.steps(arrays)
        if any(count not in (1, n) for count, n in zip(form.grid, form.shape, strict=True)):
            scale, zero = form.spread(scale), form.spread(zero)
        kind = arrays[form.scale].dtype
        held = np.where(scale == 0, 1.0, scale), form.lowest - zero, form.highest - zero
        return cls(form, arrays, *((one.T if form.bits else one).astype(kind) for one in held))

    @property
    def values(self) -> NDArray[np.floating]:
        """The weight."""
        found = self.form.values(self.arrays).astype(self.scale.dtype)
        return found.T if self.form.bits else found

    def integers(self, weight: NDArray[np.floating]) -> NDArray[Any]:
        """The initializer of integers for a weight, by the arithmetic of :func:`read_rounded`."""
        steps = np.clip(np.rint(weight / self.scale), self.lowest, self.highest).astype(np.int64)
        scale, zero = self.form.steps(self.arrays)
        q = (steps.T if self.form.bits else steps) + self.form.spread(zero)
        return self.form.stored(self.arrays, q, scale, zero)[self.form.q]


def in_numbers(model: ir.Model) -> tuple[ir.Model, dict[str, Rounding]]:
    """A copy whose layers read numbers where ``model`` has integers, under the names of these.

    Args:
        model: canonical; it is the result where it has no such layers. MatMulNBits becomes MatMul.
    """
    if not any(_forms(layer) for layer in find_layers(model)[0]):
        return model, {}
    copy = model.clone()
    nodes, found = {node.name: node for node in copy.graph}, dict[str, Rounding]()
    for layer in find_layers(copy)[0]:
        for form in _forms(layer):
            readers = [nodes[use.node] for use in layer.uses]
            found[form.q] = _open(copy, form, readers)
    return copy, found


def _forms(layer: Layer) -> list[Integers]:
    """How a layer and its biases are stored, where that is as integers, one in each place."""
    forms = [layer.integers, *(use.bias_integers for use in layer.uses)]
    return list({form.q: form for form in forms if form is not None}.values())


def _open(model: ir.Model, form: Integers, readers: Sequence[ir.Node]) -> Rounding:
    """Let nodes read numbers in place of the integers that they alone have."""
    held = [(name, model.graph.initializers[name].const_value) for name in form.names]
    rounding = Rounding.of(form, {name: one.numpy() for name, one in held if one is not None})
    if form.bits:
        readers = [_as_product(model, node) for node in readers]
    places = [
        (node, index, value)
        for node in readers
        for index, value in enumerate(node.inputs)
        if value is not None and _holds(value, form)
    ]
    read = rounding.values.dtype if form.bits else (places[0][2].dtype or ir.DataType.FLOAT).numpy()
    weight = np.ascontiguousarray(rounding.values, read)
    new = ir.Value(
        name=form.q,
        shape=ir.Shape(weight.shape),
        type=ir.TensorType(ir.DataType.from_numpy(weight.dtype)),
        const_value=ir.Tensor(weight, name=form.q),
    )
    for node, index, _ in places:
        node.replace_input_with(index, new)
    for value in dict.fromkeys(value for _, _, value in places):
        for node in node_facts.constant_cone(value) or ():
            if not any(map(is_used, node.outputs)):
                parameters = list(node.inputs)
                model.graph.remove(node, safe=True)
                for parameter in parameters:
                    remove_if_unused(model, parameter)
    model.graph.initializers.pop(form.q, None)
    add_initializer(model, new)
    return rounding


def _holds(value: ir.Value, form: Integers) -> bool:
    """Whether a value is the integers of a form, or the numbers of these."""
    behind = integers_behind(value)
    return value.name == form.q if behind is None else behind.q == form.q


def _as_product(model: ir.Model, node: ir.Node) -> ir.Node:
    """MatMul, and Add of a bias, in place of a MatMulNBits; the MatMul reads the packed integers for now."""
    names, parameters = Names(model), list(node.inputs)
    write = Writer(names, node)
    y = write.op("MatMul", node.inputs[:2])
    product, old, bias = y.producer(), node.outputs[0], node_facts.input_of(node, 5)
    y.type, y.shape = old.type, old.shape
    if bias is not None:
        y = write.op("Add", [y, bias])
        y.shape = old.shape
    take_over(names, old, y)
    model.graph.remove(node, safe=True)
    for parameter in parameters:
        remove_if_unused(model, parameter)
    assert product is not None
    return product


def read_rounded(e: Emitter, weight: ir.Value, rounding: Rounding) -> tuple[ir.Value, ir.Value]:
    """Let all readers of a weight read it rounded.

    Args:
        e: of the model.
        weight: an initializer of numbers.
        rounding: what it is rounded to.

    Returns:
        The rounded weight, and where it lies within the range: one, elsewhere zero, of the weight's type.
    """
    readers, first = list(weight.uses()), e.model.graph[0]
    written = len(e.model.graph)
    near = e.to(f"{weight.name}.rounded")
    scale, lowest, highest = (
        near.constant(one, weight) for one in (rounding.scale, rounding.lowest, rounding.highest)
    )
    steps = near.op("Round", near.div(weight, scale))
    within = near.op("Min", near.op("Max", steps, lowest), highest)
    inside = near.cast(near.op("Equal", steps, within), weight)
    product = near.mul(within, scale)
    new = list(e.model.graph)[written:]
    e.model.graph.remove(new)
    e.model.graph.insert_before(first, new)
    for reader, index in readers:
        reader.replace_input_with(index, product)
    return product, inside
