"""Multiply-accumulates of a model, from its static shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from obs_onnx.passes.ops import lookup
from obs_onnx.passes.ops.facts import INFERRED

__all__ = ["count_macs", "macs_per_node"]


def macs_per_node(model: ir.Model, shapes: Mapping[str, Sequence[int]] | None = None) -> dict[str, int]:
    """Multiply-accumulates of each node of the main graph that has any, by node name.

    A symbolic dimension counts as one, so that a model with a free batch is counted for one example.

    Args:
        model: in canonical form.
        shapes: value name -> shape of one run, for values whose shapes depend on computed numbers (a Reshape
            or Pad by a computed tensor) and cannot be inferred; other values keep their inferred shapes.
    """
    if shapes:
        model = model.clone()
        for node in model.graph:
            for value in (*node.inputs, *node.outputs):
                shape = None if value is None else shapes.get(str(value.name))
                if value is not None and shape is not None:
                    value.shape = ir.Shape(shape)
                    value.meta.pop(INFERRED, None)
    counts = {}
    for node in model.graph:
        op = lookup(node)
        if op is not None and op.macs is not None:
            counts[str(node.name)] = op.macs(node)
    return counts


def count_macs(model: ir.Model, shapes: Mapping[str, Sequence[int]] | None = None) -> int:
    """Multiply-accumulates of one run of the main graph of a canonical model; see :func:`macs_per_node`."""
    return sum(macs_per_node(model, shapes).values())
