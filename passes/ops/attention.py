"""Fused attention operators; their projections hold weights that stay as they are."""

from __future__ import annotations

import onnx_ir as ir

from obs_onnx.passes.ops import facts
from obs_onnx.passes.ops.bounds import pointwise
from obs_onnx.passes.ops.registry import Op

__all__ = ["TABLE"]


def _linear(node: ir.Node) -> str | None:
    held = facts.constant(node, 1)
    return f"{node.op_type} is not pruned; export without runtime fusions" if held is not None else None


_PLAIN = Op(lipschitz=pointwise(None))
_WITH_WEIGHTS = Op(linear=_linear, lipschitz=pointwise(None))

TABLE = {
    "Attention": _PLAIN,
    "RotaryEmbedding": _PLAIN,
    "com.microsoft::Attention": _WITH_WEIGHTS,
    "com.microsoft::QAttention": _WITH_WEIGHTS,
    "com.microsoft::LongformerAttention": _WITH_WEIGHTS,
    "com.microsoft::MultiHeadAttention": _PLAIN,
    "com.microsoft::GroupQueryAttention": _PLAIN,
    "com.microsoft::RotaryEmbedding": _PLAIN,
}
