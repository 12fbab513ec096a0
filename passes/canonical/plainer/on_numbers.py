"""Operators on integers that are no layers, written on numbers: a form that can be differentiated.

``QLinearAdd`` is Add of numbers that DequantizeLinear makes of its integers, and QuantizeLinear of what comes
out; likewise the others. DequantizeLinear stands in front of operators that only choose or move integers.
Numbers are the same up to the rounding of runtimes that compute such operators in integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.names import Names, remove_if_unused
from obs_onnx.passes.graph.writer import Writer, take_over
from obs_onnx.passes.ops import key, lookup

__all__ = ["on_numbers"]

_FACTOR = 3  # inputs of an operand: integers, scale, zero point
_OPERATORS: Mapping[str, str] = {
    "QLinearMatMul": "MatMul",
    **{
        f"com.microsoft::QLinear{name}": name
        for name in ("Add", "Mul", "Sigmoid", "LeakyRelu", "GlobalAveragePool", "AveragePool", "Concat")
    },
}
_MOVES = (
    "MaxPool",
    "Transpose",
    "Split",
    "Slice",
    "Gather",
    "Expand",
    "Tile",
    "DepthToSpace",
    "SpaceToDepth",
)


def on_numbers(model: ir.Model) -> ir.Model:
    """A copy of a canonical model in which operators compute on numbers; itself where all do.

    1. Operators of the ``QLinear*`` family that have a counterpart are this, between DequantizeLinear and
       QuantizeLinear, which keep their scales.
    2. What chooses or moves integers that become numbers everywhere behind it works on numbers.
    """
    if not any(_is_known(node) or _is_moved(node) for node in model.graph):
        return model
    copy = model.clone()
    names = Names(copy)
    for node in [node for node in copy.graph if _is_known(node)]:
        _open(copy, names, node)  # 1.
    for node in reversed(list(copy.graph)):
        if _is_moved(node):
            _move(copy, names, node)  # 2.
    return copy


def _is_known(node: ir.Node) -> bool:
    return key(node) in _OPERATORS and not node_facts.int_attribute(node, "channels_last")


def _is_moved(node: ir.Node) -> bool:
    """Whether a node puts out integers that it reads, and DequantizeLinear alone reads these."""
    if not (key(node) in _MOVES or lookup(node).view) or not node.inputs:
        return False
    x, users = node.inputs[0], [_users(y) for y in node.outputs]
    if x is None or x.producer() is None or not all(users) or any(y.is_graph_output() for y in node.outputs):
        return False
    for y, nodes in zip(node.outputs, users, strict=True):
        if len(nodes) > 1 and any(user.outputs[0].is_graph_output() for user in nodes):
            return False
        if not all(_is_single(user) and user.inputs[0] is y for user in nodes):
            return False
    return _alike([user for nodes in users for user in nodes])


def _users(y: ir.Value) -> list[ir.Node]:
    return [use.node for use in y.uses()]


def _is_single(node: ir.Node) -> bool:
    """Whether a node makes numbers of integers with one scale."""
    scale = node_facts.constant(node, 1)
    return node.op_type == "DequantizeLinear" and scale is not None and scale.size == 1


def _alike(users: Sequence[ir.Node]) -> bool:
    def held(node: ir.Node, slot: int) -> object:
        array = node_facts.array(node, slot)
        return None if array is None else array.reshape(-1)[0]

    return len({(held(user, 1), held(user, 2)) for user in users}) == 1


def _open(model: ir.Model, names: Names, node: ir.Node) -> None:
    op_type, inputs = _OPERATORS[key(node)], list(node.inputs)
    joins = op_type == "Concat"  # has scale and zero point of the result in front
    result, factors = (inputs[:2], inputs[2:]) if joins else (inputs[-2:], inputs[:-2])
    if not joins and len(inputs) % _FACTOR != 2:  # the last zero point is left out
        result, factors = inputs[-1:], inputs[:-1]
    write = Writer(names, node)
    kind = node_facts.dtype(result[0]) if result[0] is not None else None
    numbers = []
    for k in range(0, len(factors), _FACTOR):
        number = write.op("DequantizeLinear", factors[k : k + _FACTOR])
        first = factors[k]
        number.type = ir.TensorType(kind or ir.DataType.FLOAT)
        number.shape = None if first is None else first.shape
        numbers.append(number)
    kept = [one for name, one in node.attributes.items() if name != "channels_last"]
    y = write.op(op_type, numbers, *kept)
    y.type, y.shape = ir.TensorType(kind or ir.DataType.FLOAT), node.outputs[0].shape
    made = write.op("QuantizeLinear", [y, *result])
    _replace(model, names, node, made)


def _move(model: ir.Model, names: Names, node: ir.Node) -> None:
    x, first = node.inputs[0], _users(node.outputs[0])[0]
    write = Writer(names, node)
    number = write.op("DequantizeLinear", [x, *first.inputs[1:]], domain=first.domain)
    number.type, number.shape = first.outputs[0].type, None if x is None else x.shape
    outputs = write.ops(
        node.op_type,
        [number, *node.inputs[1:]],
        *node.attributes.values(),
        outputs=len(node.outputs),
        domain=node.domain,
    )
    for old, y in zip(node.outputs, outputs, strict=True):
        y.type, y.shape = first.outputs[0].type, old.shape
        for k, user in enumerate(_users(old)):
            if k:
                user.outputs[0].replace_all_uses_with(y, replace_graph_outputs=True)
            else:
                take_over(names, user.outputs[0], y)
            _remove(model, user)
    _remove(model, node)


def _replace(model: ir.Model, names: Names, node: ir.Node, made: ir.Value) -> None:
    old = node.outputs[0]
    made.type, made.shape = old.type, old.shape
    take_over(names, old, made)
    _remove(model, node)


def _remove(model: ir.Model, node: ir.Node) -> None:
    inputs = list(node.inputs)
    model.graph.remove(node, safe=True)
    for value in inputs:
        remove_if_unused(model, value)
