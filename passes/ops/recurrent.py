"""Recurrent operators.

Their weights are W (directions, gates * hidden, inputs) and R (directions, gates * hidden, hidden).
"""

from __future__ import annotations

import math

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.ops.quantized.counterpart import ranged, tie_parameters
from obs_onnx.passes.ops.vjp.recurrent import RULES
from obs_onnx.passes.traits.atoms import Labels, fixed, joined
from obs_onnx.passes.traits.lipschitz import data_only
from obs_onnx.passes.traits.op import Op, differentiable, related
from obs_onnx.passes.traits.relation import Freeze, Operand, Relation

__all__ = ["TABLE"]


def _linear(node: ir.Node) -> str | None:
    held = any(node_facts.constant_cone(node_facts.input_of(node, i)) is not None for i in (1, 2))
    return "recurrent weights are not pruned yet" if held else None


def _macs(node: ir.Node) -> int:
    """Every step of every sequence multiplies by all of W and R."""
    steps = math.prod(dim or 1 for dim in (node_facts.dims(node.inputs[0]) or ())[:2])
    return steps * sum(node_facts.size(node.inputs[i]) for i in (1, 2))


_RECURRENT = Op(linear=_linear, macs=_macs, lipschitz=data_only(None), learnt=(1, 2, 3))


_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _relate(r: Relation) -> None:
    """W (directions, gates * hidden, input), R (.., gates * hidden, hidden), B (.., 2 * gates * hidden).

    A hidden unit goes from every gate, from both directions, and from the state. Each sequence of a batch is
    by itself; steps and directions stay.
    """
    gates, batchwise = _GATES[r.node.op_type], bool(r.integer("layout"))
    if r.node.attributes.get_float("clip", None) is not None and r.integer("input_forget"):
        raise Freeze("coupled gates")
    x, w, rec = r.axes(0), r.axes(1), r.axes(2)
    (batch, steps), hidden = (x[:2] if batchwise else (x[1], x[0])), rec[2]
    r.fix(steps, "each step follows from the one before")
    r.fix([w[0], rec[0]])
    r.tie(w[1], joined([hidden] * gates))
    r.tie(rec[1], joined([hidden] * gates))
    _tie_others(r, batch, hidden, gates, batchwise)
    r.tie(x[2], w[2])
    r.mix(1, 2)
    r.mix(2, 2)
    _give(r, batch, hidden, batchwise)


def _tie_others(r: Relation, batch: Labels, hidden: Labels, gates: int, batchwise: bool) -> None:
    """Bias, lengths, states at the start, and peepholes."""
    if r.has(3):
        r.fix(r.axes(3)[0])
        r.tie(r.axes(3)[1], joined([hidden] * (2 * gates)))
    if r.has(4):
        r.tie(r.axes(4)[0], batch)
    for slot in (5, 6):
        if r.has(slot):
            state = r.axes(slot)
            r.fix(state[1 if batchwise else 0])
            r.tie(state[0 if batchwise else 1], batch)
            r.tie(state[2], hidden)
    if r.has(7):
        r.fix(r.axes(7)[0])
        r.tie(r.axes(7)[1], joined([hidden] * 3))


def _give(r: Relation, batch: Labels, hidden: Labels, batchwise: bool) -> None:
    batch, hidden = r.atoms.resolve(batch), r.atoms.resolve(hidden)
    for index in filter(r.used, range(len(r.node.outputs))):
        axes = [*(fixed(n) for n in r.shape(index)[:-1]), hidden]
        axes[0 if batchwise else -2] = batch
        r.give(axes, index)
    r.shrink(lambda s: s.attribute("hidden_size", s.count(hidden)))


def _relate_quantized(r: Relation) -> None:
    """An LSTM whose W (directions, input, 4 * hidden) and R (directions, hidden, 4 * hidden) are integers.

    Inputs and states are turned into integers in every step, by their range. A hidden unit whose gates get
    nothing and whose states start with zeros stays zero.
    """
    if r.node.attributes.get_strings("activations", None) or r.integer("input_forget"):
        raise Freeze("its gates may give something for nothing")
    weights = Operand(1, 8, 9, axes=(0, 2)), Operand(2, 10, 11, axes=(0, 2))
    seen = r.among([Operand(0), *weights, *map(Operand, range(3, 8))])
    x, w, rec = (r.axes(slot) for slot in range(3))
    (steps, batch, inputs), hidden = x, rec[1]
    r.fix(steps, "each step follows from the one before")
    r.fix([w[0], rec[0]])
    r.tie(w[2], joined([hidden] * 4))
    r.tie(rec[2], joined([hidden] * 4))
    r.tie(inputs, w[1])
    _tie_others(r, batch, hidden, 4, batchwise=False)
    for one in weights:
        tie_parameters(r, one)
        seen.mix(one.slot, 1)
        seen.mix(one.slot, 2)
    for slot, axis in ((3, 1), (5, 2), (6, 2)):
        if r.has(slot):
            r.mix(slot, axis)
    ranged(r)
    _give(r, batch, hidden, batchwise=False)


_KNOWN = related(
    {
        "LSTM": _RECURRENT,
        "GRU": _RECURRENT,
        "RNN": _RECURRENT,
        "com.microsoft::DynamicQuantizeLSTM": Op(
            linear=_linear, macs=_macs, lipschitz=data_only(None), decides=True, quantizes=True
        ),
    },
    {
        _relate: "LSTM GRU RNN",
        _relate_quantized: "com.microsoft::DynamicQuantizeLSTM",
    },
)

TABLE = differentiable(_KNOWN, RULES)
