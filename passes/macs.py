"""Multiply-accumulates of a model, from its static shapes."""

from __future__ import annotations

import onnx_ir as ir

from obs_onnx.passes.ops import lookup

__all__ = ["count_macs", "macs_per_node"]


def macs_per_node(model: ir.Model) -> dict[str, int]:
    """Multiply-accumulates of each node of the main graph that has any, by node name.

    A symbolic dimension counts as one, so that a model with a free batch is counted for one example.
    """
    counts = {}
    for node in model.graph:
        op = lookup(node)
        if op is not None and op.macs is not None:
            counts[str(node.name)] = op.macs(node)
    return counts


def count_macs(model: ir.Model) -> int:
    """Multiply-accumulates of one run of the main graph of a canonical ``model``."""
    return sum(macs_per_node(model).values())
