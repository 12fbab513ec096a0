"""Recurrent operators written out step by step, which is how they are differentiated.

With x_t W^T + h R^T and the biases in each gate, s the logistic function and * elementwise:

* LSTM, gates i, o, f, c: C' = s(f) * C + s(i) * tanh(c), h' = s(o) * tanh(C'); peepholes add P * C to i
  and f, P * C' to o.
* GRU, gates z, r, h: h' = (1 - z) * n + z * h with n = tanh(x W^T + (r * h) R^T + biases), or with
  ``linear_before_reset`` tanh(x W^T + W's bias + r * (h R^T + R's bias)).
* RNN: h' = tanh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from obs_onnx.passes.ops import facts
from obs_onnx.passes.ops.composite import composite

if TYPE_CHECKING:
    from obs_onnx.passes.vjp import Vjp

__all__ = ["RULES"]

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}


def _write(v: Vjp, inputs: Sequence[ir.Value | None]) -> list[ir.Value | None]:
    """Sequence, last state, last cell: (T, D, N, H), (D, N, H), (D, N, H); with ``layout`` N is in front."""
    x, w, r, b, _, h0, c0, peepholes = [*inputs, *[None] * 8][:8]
    assert x is not None
    assert w is not None
    assert r is not None
    _check(v)
    if layout := facts.int_attribute(v.node, "layout"):
        x = v.transpose(x, [1, 0, 2])
        h0, c0 = (None if s is None else v.transpose(s, [1, 0, 2]) for s in (h0, c0))
    steps, hidden = v.dims(x)[0], v.dims(r)[2]
    if steps is None or hidden is None:
        v.refuse("its number of steps is only known at run time; give the model a fixed sequence length")
    direction = facts.text_attribute(v.node, "direction", "forward")
    results = []
    for d in range(2 if direction == "bidirectional" else 1):
        order = list(range(steps))
        if d == 1 or direction == "reverse":
            order.reverse()
        own = [None if s is None else _of(v, s, d) for s in (w, r, b, h0, c0, peepholes)]
        results.append(_one_direction(v, x, hidden, order, own))
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
    if v.has(4):
        v.refuse("its sequences have different lengths")
    if "clip" in node.attributes or facts.int_attribute(node, "input_forget"):
        v.refuse("it clips or couples its gates")
    given = node.attributes.get("activations")
    names = [] if given is None else [str(name).lower() for name in given.as_strings()]
    usual = _ACTIVATIONS[node.op_type]
    if names and names not in (usual, usual * 2):
        v.refuse(f"its activations are {', '.join(names)}")


def _of(v: Vjp, value: ir.Value, direction: int) -> ir.Value:
    return v.squeeze(v.slice(value, [direction], [direction + 1], [0]), [0])


def _one_direction(
    v: Vjp, x: ir.Value, hidden: int, order: Sequence[int], own: Sequence[ir.Value | None]
) -> tuple[ir.Value, ir.Value, ir.Value | None]:
    """Sequence (T, N, H), last state (N, H), last cell."""
    w, r, b, h, c, peepholes = own
    assert w is not None
    assert r is not None
    gates = _GATES[v.node.op_type]
    x_bias = r_bias = None
    if b is not None:
        x_bias, r_bias = _pieces(v, b, gates * hidden, 2)
    projected = v.op("MatMul", x, v.transpose(w, [1, 0]))
    if x_bias is not None:
        projected = v.add(projected, x_bias)
    zero = None
    if h is None or (c is None and v.node.op_type == "LSTM"):
        zero = v.cast(v.op("ConstantOfShape", v.op("Concat", v.size_of(x, 1), v.ints([hidden]), axis=0)), x)
        zero.shape = None if x.shape is None else ir.Shape([x.shape[1], hidden])
    h, c = zero if h is None else h, zero if c is None else c
    assert h is not None
    states: dict[int, ir.Value] = {}
    r_t = v.transpose(r, [1, 0])
    for t in order:
        x_t = v.squeeze(v.slice(projected, [t], [t + 1], [0]), [0])
        if v.node.op_type == "LSTM":
            assert c is not None
            h, c = _lstm_step(v, _plus(v, v.add(x_t, v.op("MatMul", h, r_t)), r_bias), c, peepholes, hidden)
        elif v.node.op_type == "GRU":
            h = _gru_step(v, x_t, h, r_t, r_bias, hidden)
        else:
            h = v.op("Tanh", _plus(v, v.add(x_t, v.op("MatMul", h, r_t)), r_bias))
        states[t] = h
    sequence = v.op("Concat", *(v.unsqueeze(states[t], [0]) for t in sorted(states)), axis=0)
    return sequence, h, c if v.node.op_type == "LSTM" else None


def _plus(v: Vjp, value: ir.Value, bias: ir.Value | None) -> ir.Value:
    return value if bias is None else v.add(value, bias)


def _pieces(v: Vjp, value: ir.Value, size: int, count: int) -> Sequence[ir.Value]:
    """Parts of equal size of the last axis."""
    axis = v.rank(value) - 1
    if v.opset >= 13:
        return v.ops("Split", value, v.ints([size] * count), outputs=count, axis=axis)
    return v.ops("Split", value, outputs=count, axis=axis, split=[size] * count)


def _lstm_step(
    v: Vjp, gates: ir.Value, c: ir.Value, peepholes: ir.Value | None, hidden: int
) -> tuple[ir.Value, ir.Value]:
    i, o, f, new = _pieces(v, gates, hidden, 4)
    p_o = None
    if peepholes is not None:
        p_i, p_o, p_f = _pieces(v, peepholes, hidden, 3)
        i, f = v.add(i, v.mul(p_i, c)), v.add(f, v.mul(p_f, c))
    kept = v.mul(v.op("Sigmoid", f), c)
    c = v.add(kept, v.mul(v.op("Sigmoid", i), v.op("Tanh", new)))
    if p_o is not None:
        o = v.add(o, v.mul(p_o, c))
    return v.mul(v.op("Sigmoid", o), v.op("Tanh", c)), c


def _gru_step(
    v: Vjp, x_t: ir.Value, h: ir.Value, r_t: ir.Value, r_bias: ir.Value | None, hidden: int
) -> ir.Value:
    x_z, x_r, x_n = _pieces(v, x_t, hidden, 3)
    r_z, r_r, r_n = _pieces(v, r_t, hidden, 3)
    b_z, b_r, b_n = (None,) * 3 if r_bias is None else _pieces(v, r_bias, hidden, 3)
    z = v.op("Sigmoid", _plus(v, v.add(x_z, v.op("MatMul", h, r_z)), b_z))
    r = v.op("Sigmoid", _plus(v, v.add(x_r, v.op("MatMul", h, r_r)), b_r))
    if facts.int_attribute(v.node, "linear_before_reset"):
        n = v.add(x_n, v.mul(r, _plus(v, v.op("MatMul", h, r_n), b_n)))
    else:
        n = _plus(v, v.add(x_n, v.op("MatMul", v.mul(r, h), r_n)), b_n)
    n = v.op("Tanh", n)
    return v.add(n, v.mul(z, v.sub(h, n)))


RULES: Mapping[Callable[[Vjp], None], str] = {composite(_write): "LSTM GRU RNN"}
