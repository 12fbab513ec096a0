"""A model with pairs of QuantizeLinear and DequantizeLinear, written with operators that compute in integers.

What an operator makes of numbers that come from integers and become integers again is one operator on these:
``QLinearConv``, ``QLinearMatMul``, and of onnxruntime ``QGemm`` and the ``QLinear*`` family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.canonical.plainer.integer_forms import WAS, Was, only_user
from obs_onnx.passes.canonical.plainer.written_form import CloseIntegers, remove_unread
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.graph.writer import Writer, take_over
from obs_onnx.passes.ops import key, lookup

__all__ = ["as_operators"]

_OWN = "com.microsoft"
_LAYERS = {"Conv": "QLinearConv", "MatMul": "QLinearMatMul", "Gemm": f"{_OWN}::QGemm"}
_ONE_BY_ONE: Mapping[str, str] = {
    name: f"QLinear{name}"
    for name in ("Add", "Mul", "Sigmoid", "LeakyRelu", "GlobalAveragePool", "AveragePool", "Concat")
}
_STEP = 0.51  # of a scale, that a limit may lie inside of what integers reach


def as_operators(model: ir.Model) -> ir.Model:
    """A copy of a model in which operators compute in integers where there are such.

    1. A Relu or a Clip goes where integers reach no further.
    2. Layers with a constant weight become layers on integers.
    3. So do sums, products, activations, averages and Concat.
    4. Views and maxima take integers where these stand for the same numbers behind them.

    Args:
        model: with QuantizeLinear and DequantizeLinear; not changed. What has no such form stays.
    """
    copy = model.clone()
    copy.opset_imports.setdefault(_OWN, 1)
    names = Names(copy)
    for node in list(copy.graph):
        if node.op_type in ("Relu", "Clip") and _is_idle(node):
            _leave_out(copy, node)  # 1.
    for node in copy.graph:
        if key(node) in _LAYERS and WAS not in node.meta and _is_plain(node):
            node.meta[WAS] = Was(_LAYERS[key(node)])
    CloseIntegers().call(copy)  # 2.
    for node in list(copy.graph):
        made = [_dequantize(value) for value in node.inputs if value is not None]
        user = only_user(node.outputs[0]) if len(node.outputs) == 1 else None
        if user is None or user.op_type != "QuantizeLinear" or not made or None in made[: _data(node)]:
            continue
        found = [one for one in made if one is not None]
        if key(node) in _ONE_BY_ONE and all(map(_is_single, (*found, user))):
            _write(copy, names, node, found, user)  # 3.
        elif (lookup(node).view or key(node) == "MaxPool") and _same(found[0], user):
            _move(copy, names, node, found[0], user)  # 4.
    for node in copy.graph:
        node.meta.pop(WAS, None)
    return copy


def _data(node: ir.Node) -> int:
    """How many inputs are numbers."""
    return len(node.inputs) if key(node) in _ONE_BY_ONE else 1


def _dequantize(value: ir.Value) -> ir.Node | None:
    made = value.producer()
    return made if made is not None and made.op_type == "DequantizeLinear" else None


def _is_plain(node: ir.Node) -> bool:
    """Whether a product is not scaled."""
    return all(node_facts.float_attribute(node, name, 1.0) == 1.0 for name in ("alpha", "beta"))


def _is_single(node: ir.Node) -> bool:
    """Whether one constant scale and one zero point hold for a whole tensor."""
    scale, zero = node_facts.constant(node, 1), node_facts.constant(node, 2)
    return scale is not None and zero is not None and scale.size == zero.size == 1


def _same(made: ir.Node, quantize: ir.Node) -> bool:
    """Whether integers stand for the same numbers before and behind."""
    if not (_is_single(made) and _is_single(quantize)):
        return False
    pairs = [(node_facts.array(made, k), node_facts.array(quantize, k)) for k in (1, 2)]
    return all(
        a is not None and b is not None and a.dtype == b.dtype and a.reshape(-1)[0] == b.reshape(-1)[0]
        for a, b in pairs
    )


def _is_idle(node: ir.Node) -> bool:
    """Whether integers behind a Relu or a Clip reach no further than it lets pass."""
    user = only_user(node.outputs[0])
    if user is None or user.op_type != "QuantizeLinear" or not _is_single(user):
        return False
    scale, zero = node_facts.array(user, 1), node_facts.array(user, 2)
    assert scale is not None
    assert zero is not None
    if zero.dtype not in (np.int8, np.uint8):
        return False
    step, limits = float(scale.reshape(-1)[0]), np.iinfo(zero.dtype.name)
    ends = [step * (float(end) - float(zero.reshape(-1)[0])) for end in (limits.min, limits.max)]
    low, high = 0.0, np.inf
    if node.op_type == "Clip":
        given = [node_facts.array(node, k) for k in (1, 2)]
        present = [node_facts.input_of(node, k) is not None for k in (1, 2)]
        if any(there and one is None for there, one in zip(present, given, strict=True)):
            return False
        low = node_facts.float_attribute(node, "min", -np.inf) if given[0] is None else float(given[0])
        high = node_facts.float_attribute(node, "max", np.inf) if given[1] is None else float(given[1])
    return ends[0] >= low - _STEP * step and ends[1] <= high + _STEP * step


def _leave_out(model: ir.Model, node: ir.Node) -> None:
    value = node.inputs[0]
    assert value is not None
    node.outputs[0].replace_all_uses_with(value)
    remove_unread(model, node)


def _write(model: ir.Model, names: Names, node: ir.Node, made: Sequence[ir.Node], user: ir.Node) -> None:
    factors = [value for one in made for value in one.inputs[:3]]
    result = list(user.inputs[1:3])
    inputs = [*result, *factors] if key(node) == "Concat" else [*factors, *result]
    write = Writer(names, user)
    y = write.op(_ONE_BY_ONE[key(node)], inputs, *node.attributes.values(), domain=_OWN)
    y.type = user.outputs[0].type
    _take(model, names, node, user, y)


def _move(model: ir.Model, names: Names, node: ir.Node, made: ir.Node, user: ir.Node) -> None:
    write = Writer(names, user)
    y = write.op(
        node.op_type, [made.inputs[0], *node.inputs[1:]], *node.attributes.values(), domain=node.domain
    )
    _take(model, names, node, user, y)


def _take(model: ir.Model, names: Names, node: ir.Node, user: ir.Node, y: ir.Value) -> None:
    """The new result in place of the one that ``user`` gives."""
    layer, old = y.producer(), user.outputs[0]
    y.type, y.shape = old.type, old.shape
    take_over(names, old, y)
    remove_unread(model, user)
    remove_unread(model, node)
    assert layer is not None
    layer.name = node.name
