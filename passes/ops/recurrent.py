"""Recurrent operators.

Their weights are W (directions, gates * hidden, inputs) and R (directions, gates * hidden, hidden).
"""

from __future__ import annotations

import math

import onnx_ir as ir

from obs_onnx.passes.ops import facts
from obs_onnx.passes.ops.bounds import data_only
from obs_onnx.passes.ops.registry import Op

__all__ = ["TABLE"]


def _linear(node: ir.Node) -> str | None:
    held = any(facts.constant_cone(facts.input_of(node, i)) is not None for i in (1, 2))
    return "recurrent weights are not pruned yet" if held else None


def _macs(node: ir.Node) -> int:
    """Every step of every sequence multiplies by all of W and R."""
    steps = math.prod(dim or 1 for dim in (facts.dims(node.inputs[0]) or ())[:2])
    return steps * sum(facts.size(node.inputs[i]) for i in (1, 2))


_RECURRENT = Op(linear=_linear, macs=_macs, lipschitz=data_only(None))

TABLE = {"LSTM": _RECURRENT, "GRU": _RECURRENT, "RNN": _RECURRENT}
