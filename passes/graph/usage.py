"""Who needs a value."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["is_used"]


def is_used(value: ir.Value) -> bool:
    """Whether a node reads ``value``, or whoever runs the graph does because it is an output of it."""
    return bool(value.uses()) or value.is_graph_output()
