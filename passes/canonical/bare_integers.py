"""Integers that weights are stored in lie as the weights are used, and belong to one weight each.

Exporters put a Transpose or a Reshape between the numbers and the product, or let several weights share a
constant zero point. Whoever changes the weight then had to know both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.names import Names, remove_if_unused
from obs_onnx.passes.ops import key, lookup
from obs_onnx.passes.ops.quantized.weights import integers_behind
from obs_onnx.passes.shapes.shape_arithmetic import MOVES
from obs_onnx.passes.traits.linear import Integers

__all__ = ["BareIntegers"]

_SCALES = ("DequantizeLinear", "com.microsoft::DequantizeLinear", "com.microsoft::MatMulNBits")


class BareIntegers(ir.passes.InPlacePass):
    """Bring constants that are stored as integers to the form in which they can be changed.

    1. The same integers with the same scales are one value.
    2. Transpose, Reshape and other views of the numbers become views of the integers and their scales, where
       these still lie along one axis, or in blocks of one.
    3. Scales and zero points that serve several nodes are copied.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        names = Names(model)
        count = _merge(model)  # 1.
        for node in list(model.graph):
            if lookup(node).view or key(node) == "Transpose":
                with node_facts.inside(node):
                    count += _move(model, node)  # 2.
        for node in list(model.graph):
            with node_facts.inside(node):
                count += _own(node, names)  # 3.
        return ir.passes.PassResult(model, modified=bool(count))


def _merge(model: ir.Model) -> int:
    first: dict[tuple[object, ...], ir.Node] = {}
    count = 0
    for node in list(model.graph):
        if node.op_type != "DequantizeLinear" or node.outputs[0].is_graph_output():
            continue
        if integers_behind(node.outputs[0]) is None:
            continue
        attributes = sorted((name, str(one.value)) for name, one in node.attributes.items())
        what = (node.domain, *node.inputs, *attributes)
        one = first.setdefault(what, node)
        if one is not node:
            node.outputs[0].replace_all_uses_with(one.outputs[0])
            model.graph.remove(node, safe=True)
            count += 1
    return count


def _move(model: ir.Model, node: ir.Node) -> bool:
    source = node_facts.input_of(node, 0)
    if source is None or source.is_graph_output() or node.outputs[0].is_graph_output():
        return False
    found = integers_behind(source) if len(source.uses()) == 1 else None
    if found is None or any(len(model.graph.initializers[name].uses()) > 1 for name in found.names):
        return False
    operands = [node_facts.array(node, index) for index in range(1, len(node.inputs))]
    if any(x is not None and array is None for x, array in zip(node.inputs[1:], operands, strict=True)):
        return False
    q = model.graph.initializers[found.q]
    assert q.const_value is not None
    moved = MOVES[node.op_type](node, q.const_value.numpy(), *operands)
    order = _order(node, found, moved.shape)
    if order is None:
        return False
    _replace(q, np.ascontiguousarray(moved))
    for name in found.names[1:]:
        _rearrange(model.graph.initializers[name], found, order, moved.ndim)
    _restate(source, found, order, moved.shape)
    parameters = node.inputs[1:]
    node.outputs[0].replace_all_uses_with(source)
    model.graph.remove(node, safe=True)
    for parameter in parameters:
        remove_if_unused(model, parameter)
    return True


def _order(node: ir.Node, found: Integers, shape: tuple[int, ...]) -> list[int | None] | None:
    """For each axis of the result the one of the scales that it was, None where it has none of its own."""
    if node.op_type == "Transpose":
        rank = len(found.shape)
        return list(node_facts.ints_attribute(node, "perm", tuple(reversed(range(rank)))))
    along = [axis for axis, count in enumerate(found.grid) if count > 1]
    order: list[int | None] = [None] * len(shape)
    if not along:
        return order
    if len(along) > 1 or found.grid[along[0]] != found.shape[along[0]]:
        return None
    before, n = math.prod(found.shape[: along[0]]), found.shape[along[0]]
    for axis in range(len(shape)):
        if math.prod(shape[:axis]) == before and shape[axis] == n:
            order[axis] = along[0]
            return order
    return None


def _replace(value: ir.Value, array: NDArray[np.generic]) -> None:
    old = value.const_value
    assert old is not None
    value.const_value = ir.Tensor(array, dtype=old.dtype, name=value.name)
    value.shape = ir.Shape(array.shape)


def _rearrange(value: ir.Value, found: Integers, order: Sequence[int | None], rank: int) -> None:
    """Scales or zero points with as many axes as the tensor follow it; those along one axis stay."""
    assert value.const_value is not None
    array = value.const_value.numpy()
    if array.ndim < 2 and not (array.ndim == 1 and _is_multiplied(value)):
        return
    full = array.reshape((1,) * (len(found.grid) - array.ndim) + array.shape)
    kept = [axis for axis in order if axis is not None]
    rest = [axis for axis in range(full.ndim) if axis not in kept]
    shape = [1 if axis is None else full.shape[axis] for axis in order]
    _replace(value, np.ascontiguousarray(full.transpose(kept + rest)).reshape(shape[:rank]))


def _is_multiplied(value: ir.Value) -> bool:
    return all(use.node.op_type in ("Mul", "Sub") for use in value.uses())


def _restate(value: ir.Value, found: Integers, order: Sequence[int | None], shape: tuple[int, ...]) -> None:
    """Axes and shapes on the way from the integers to ``value``."""
    node = value.producer()
    while node is not None:
        node.outputs[0].shape = ir.Shape(shape)
        if node.op_type == "DequantizeLinear" and max(found.grid, default=1) > 1:
            axis = node_facts.int_attribute(node, "axis", 1) % len(found.shape)
            node.attributes["axis"] = ir.AttrInt64("axis", order.index(axis))
        inner = [one for one in node.inputs if one is not None and one.producer() is not None]
        node = inner[0].producer() if inner else None


def _own(node: ir.Node, names: Names) -> int:
    """Copies of scales and zero points of constant integers that other nodes use as well."""
    if key(node) in _SCALES:
        own, slots = node_facts.constant(node, int(node.op_type != "DequantizeLinear")), range(1, 4)
    elif key(node) in ("Mul", "Sub") and integers_behind(node.outputs[0]) is not None:
        own, slots = None, range(2)
    else:
        return 0
    count = 0
    for slot in slots:
        tensor = node_facts.constant(node, slot)
        value = node_facts.input_of(node, slot)
        if tensor is None or value is None or tensor is own or len(value.uses()) == 1:
            continue
        if own is not None or key(node) in ("Mul", "Sub"):
            node.replace_input_with(slot, names.copy(value))
            count += 1
    return count
