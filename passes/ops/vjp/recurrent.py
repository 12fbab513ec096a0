"""Recurrent operators written out step by step, which is how they are differentiated.

With x_t W^T + h R^T and the biases in each gate, s the logistic function and * elementwise:

* LSTM, gates i, o, f, c: C' = s(f) * C + s(i) * tanh(c), h' = s(o) * tanh(C'); peepholes add P * C to i
  and f, P * C' to o.
* GRU, gates z, r, h: h' = (1 - z) * n + z * h with n = tanh(x W^T + (r * h) R^T + biases), or with
  ``linear_before_reset`` tanh(x W^T + W's bias + r * (h R^T + R's bias)).
* RNN: h' = tanh.

Few steps are written out one after the other. More, or a number that only the run knows, or sequences of
different lengths, are a Scan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.traits.composite import composite
from obs_onnx.passes.traits.vjp import Vjp

__all__ = ["RULES"]

Step = Callable[["Vjp", ir.Value, Sequence[ir.Value]], list[ir.Value]]
"""From x_t, projected and with a bias, and the states, nodes for the next states."""
Cell = tuple[Step, ir.Value | None]
"""A step, and the bias that all steps add to what is projected."""

_ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}


def _write(v: Vjp, inputs: Sequence[ir.Value | None]) -> list[ir.Value | None]:
    """Sequence, last state, last cell: (T, D, N, H), (D, N, H), (D, N, H); with ``layout`` N is in front."""
    x, w, r, b, lengths, h0, c0, peepholes = [*inputs, *[None] * 8][:8]
    assert x is not None
    assert w is not None
    assert r is not None
    _check(v)
    if layout := node_facts.int_attribute(v.node, "layout"):
        x = v.transpose(x, [1, 0, 2])
        h0, c0 = (None if s is None else v.transpose(s, [1, 0, 2]) for s in (h0, c0))
    direction = node_facts.text_attribute(v.node, "direction", "forward")
    results = []
    for d in range(2 if direction == "bidirectional" else 1):
        own = [None if s is None else _of(v, s, d) for s in (w, r, b, h0, c0, peepholes)]
        results.append(_one_direction(v, x, lengths, d == 1 or direction == "reverse", own))
    sequence = v.op("Concat", *(v.unsqueeze(ys, [1]) for ys, _, _ in results), axis=1)
    last = v.op("Concat", *(v.unsqueeze(h, [0]) for _, h, _ in results), axis=0)
    cells = [v.unsqueeze(c, [0]) for _, _, c in results if c is not None]
    cell = v.op("Concat", *cells, axis=0) if cells else None
    if layout:
        sequence, last = v.transpose(sequence, [2, 0, 1, 3]), v.transpose(last, [1, 0, 2])
        cell = None if cell is None else v.transpose(cell, [1, 0, 2])
    return [sequence, last, cell]


def _check(v: Vjp) -> None:
    node = v.node
    if "clip" in node.attributes or node_facts.int_attribute(node, "input_forget"):
        v.refuse("it clips or couples its gates")
    given = node.attributes.get("activations")
    names = [] if given is None else [str(name).lower() for name in given.as_strings()]
    usual = _ACTIVATIONS[node.op_type]
    if names and names not in (usual, usual * 2):
        v.refuse(f"its activations are {', '.join(names)}")


def _of(v: Vjp, value: ir.Value, direction: int) -> ir.Value:
    return v.squeeze(v.slice(value, [direction], [direction + 1], [0]), [0])


def _one_direction(
    v: Vjp, x: ir.Value, lengths: ir.Value | None, backwards: bool, own: Sequence[ir.Value | None]
) -> tuple[ir.Value, ir.Value, ir.Value | None]:
    """Sequence (T, N, H), last state (N, H), last cell."""
    w, r, b, h, c, peepholes = own
    assert w is not None
    assert r is not None
    steps, hidden = v.dims(x)[0], v.dims(r)[1]
    if hidden is None:
        v.refuse("the size of its state is unknown")
    if h is None or (c is None and v.node.op_type == "LSTM"):
        zero = v.cast(v.op("ConstantOfShape", v.op("Concat", v.size_of(x, 1), v.ints([hidden]), axis=0)), x)
        zero.shape = None if x.shape is None else ir.Shape([x.shape[1], hidden])
        h, c = zero if h is None else h, zero if c is None else c
    reversing = backwards and lengths is not None
    x = v.op("ReverseSequence", x, _wide(v, lengths), **_TIME_FIRST) if reversing else x
    projected = v.op("MatMul", x, v.transpose(w, [1, 0]))
    step, bias = _CELLS[v.node.op_type](v, v.transpose(r, [1, 0]), b, peepholes, hidden)
    projected = projected if bias is None else v.add(projected, bias)
    states = [s for s in ((h, c) if v.node.op_type == "LSTM" else (h,)) if s is not None]
    if steps is not None and steps <= _FEW_STEPS and lengths is None:
        order = reversed(range(steps)) if backwards else range(steps)
        ys = {}
        for t in order:
            states = step(v, v.squeeze(v.slice(projected, [t], [t + 1], [0]), [0]), states)
            ys[t] = v.unsqueeze(states[0], [0])
        sequence = v.op("Concat", *(ys[t] for t in sorted(ys)), axis=0)
    else:
        columns = [projected] if lengths is None else [projected, _seen(v, x, lengths)]
        sequence, states = _scan(v, step, states, columns, backwards and lengths is None)
    if reversing:
        sequence = v.op("ReverseSequence", sequence, _wide(v, lengths), **_TIME_FIRST)
    return sequence, states[0], states[1] if len(states) == 2 else None


_FEW_STEPS = 16  # more are a Scan: as fast, and a graph that does not grow
_TIME_FIRST = {"time_axis": 0, "batch_axis": 1}


def _wide(v: Vjp, lengths: ir.Value | None) -> ir.Value:
    assert lengths is not None
    return v.op("Cast", lengths, to=int(ir.DataType.INT64))


def _seen(v: Vjp, x: ir.Value, lengths: ir.Value) -> ir.Value:
    """Which steps belong to each sequence, (T, N, 1)."""
    bounds = v.constant(np.array(0)), v.squeeze(v.size_of(x, 0), [0]), v.constant(np.array(1))
    return v.op("Less", v.unsqueeze(v.op("Range", *bounds), [1, 2]), v.unsqueeze(_wide(v, lengths), [1]))


def _scan(
    v: Vjp, step: Step, states: Sequence[ir.Value], columns: Sequence[ir.Value], backwards: bool
) -> tuple[ir.Value, list[ir.Value]]:
    """``step`` in a Scan over what is projected, and over which steps count: sequence and last states."""
    near = v.names.fresh(f"{v.near}.steps")
    body = ir.Graph([], [], nodes=[], opset_imports=v.model.graph.opset_imports, name=near)
    inside = replace(v, near=near, body=body)
    slots = [ir.Value(name=v.names.fresh(f"{near}.input")) for _ in (*states, *columns)]
    for slot, value in zip(slots, (*states, *columns), strict=True):
        dims = list(v.dims(value) if value.shape is None else value.shape)
        slot.type = node_facts.type_of(value)
        slot.shape = ir.Shape(dims[1:] if value in columns else dims)
    body.inputs.extend(slots)
    before, (x_t, *seen) = slots[: len(states)], slots[len(states) :]
    after = step(inside, x_t, before)
    y = after[0]
    if seen:
        y = inside.where(seen[0], y, 0.0)
        after = [inside.where(seen[0], new, old) for new, old in zip(after, before, strict=True)]
    body.outputs.extend(inside.op("Identity", value) for value in (*after, y))
    attributes = [
        ir.AttrGraph("body", body),
        ir.AttrInt64("num_scan_inputs", len(columns)),
        ir.AttrInt64s("scan_input_directions", [int(backwards)] * len(columns)),
        ir.AttrInt64s("scan_output_directions", [int(backwards)]),
    ]
    node = ir.Node("", "Scan", [*states, *columns], attributes, num_outputs=len(states) + 1, name=near)
    for k, (output, inner) in enumerate(zip(node.outputs, body.outputs, strict=True)):
        output.name, output.type = v.names.fresh(f"{near}.{k}"), inner.type
        dims = list(v.dims(states[0]) if states[0].shape is None else states[0].shape)
        inner.shape = ir.Shape(dims)
        output.shape = ir.Shape(dims if k < len(states) else [v.dims(columns[0])[0], *dims])
    v.graph.append(node)
    return node.outputs[-1], list(node.outputs[:-1])


def _plus(v: Vjp, value: ir.Value, bias: ir.Value | None) -> ir.Value:
    return value if bias is None else v.add(value, bias)


def _pieces(v: Vjp, value: ir.Value, size: int, count: int) -> Sequence[ir.Value]:
    """Parts of equal size of the last axis."""
    axis = v.rank(value) - 1
    if v.opset >= 13:
        return v.ops("Split", value, v.ints([size] * count), outputs=count, axis=axis)
    return v.ops("Split", value, outputs=count, axis=axis, split=[size] * count)


def _lstm(v: Vjp, r_t: ir.Value, b: ir.Value | None, peepholes: ir.Value | None, hidden: int) -> Cell:
    p_i, p_o, p_f = (None,) * 3 if peepholes is None else _pieces(v, peepholes, hidden, 3)

    def step(e: Vjp, x_t: ir.Value, states: Sequence[ir.Value]) -> list[ir.Value]:
        h, c = states
        i, o, f, new = _pieces(e, e.add(x_t, e.op("MatMul", h, r_t)), hidden, 4)
        if p_i is not None and p_f is not None:
            i, f = e.add(i, e.mul(p_i, c)), e.add(f, e.mul(p_f, c))
        kept = e.mul(e.op("Sigmoid", f), c)
        c = e.add(kept, e.mul(e.op("Sigmoid", i), e.op("Tanh", new)))
        if p_o is not None:
            o = e.add(o, e.mul(p_o, c))
        return [e.mul(e.op("Sigmoid", o), e.op("Tanh", c)), c]

    return step, _summed(v, b, 4 * hidden)


def _gru(v: Vjp, r_t: ir.Value, b: ir.Value | None, _: ir.Value | None, hidden: int) -> Cell:
    r_z, r_r, r_n = _pieces(v, r_t, hidden, 3)
    x_bias, r_bias = (None, None) if b is None else _pieces(v, b, 3 * hidden, 2)
    b_z, b_r, b_n = (None,) * 3 if r_bias is None else _pieces(v, r_bias, hidden, 3)

    def step(e: Vjp, x_t: ir.Value, states: Sequence[ir.Value]) -> list[ir.Value]:
        (h,) = states
        x_z, x_r, x_n = _pieces(e, x_t, hidden, 3)
        z = e.op("Sigmoid", _plus(e, e.add(x_z, e.op("MatMul", h, r_z)), b_z))
        r = e.op("Sigmoid", _plus(e, e.add(x_r, e.op("MatMul", h, r_r)), b_r))
        if node_facts.int_attribute(v.node, "linear_before_reset"):
            n = e.add(x_n, e.mul(r, _plus(e, e.op("MatMul", h, r_n), b_n)))
        else:
            n = _plus(e, e.add(x_n, e.op("MatMul", e.mul(r, h), r_n)), b_n)
        n = e.op("Tanh", n)
        return [e.add(n, e.mul(z, e.sub(h, n)))]

    return step, x_bias


def _rnn(v: Vjp, r_t: ir.Value, b: ir.Value | None, _: ir.Value | None, hidden: int) -> Cell:
    def step(e: Vjp, x_t: ir.Value, states: Sequence[ir.Value]) -> list[ir.Value]:
        return [e.op("Tanh", e.add(x_t, e.op("MatMul", states[0], r_t)))]

    return step, _summed(v, b, hidden)


def _summed(v: Vjp, b: ir.Value | None, rows: int) -> ir.Value | None:
    """The biases of W and R together."""
    return None if b is None else v.add(*_pieces(v, b, rows, 2))


_CELLS = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}

RULES: Mapping[Callable[[Vjp], None], str] = {composite(_write): "LSTM GRU RNN"}
