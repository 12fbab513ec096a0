"""Nodes whose results are others in every run, or in every batch, and what measurements do about them."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from obs_onnx.passes.canonical.fixed_numbers import drops_out, is_fixable, random_nodes, trained_by_batch
from obs_onnx.passes.printable import first_of

__all__ = ["varying_notes"]

_NAMED = 5
_EXPORT = "export the model in evaluation mode if that is not wanted"


def varying_notes(model: ir.Model, batch: int) -> list[str]:
    """Sentences that name them all.

    Args:
        model: in the form that is calibrated.
        batch: samples that are measured together.
    """
    random = list(random_nodes(model))
    off = [node for node in random if drops_out(node)]
    fixed = [node for node in random if node not in off and is_fixable(model, node)]
    free = [node for node in random if node not in off and node not in fixed]
    trained = [node for graph in model.graphs() for node in graph if trained_by_batch(node)]
    notes = []
    if off:
        notes.append(
            f"{_names(off)} in training mode: turned off in all measurements and comparisons, and left as it "
            f"is in what is written; {_EXPORT}"
        )
    if fixed:
        notes.append(
            f"random numbers are drawn by {_names(fixed)}: all measurements and comparisons use the same "
            "fixed ones; what is written draws anew in every run"
        )
    if free:
        notes.append(
            f"random numbers are drawn by {_names(free)} and cannot be fixed: what follows from them differs "
            "from run to run, errors that are measured there include that"
        )
    if trained:
        notes.append(
            f"{_names(trained)} in training mode: it normalises by the statistics of each batch, so what is "
            f"measured holds for batches of {batch} samples; {_EXPORT}"
        )
    return notes


def _names(nodes: Iterable[ir.Node]) -> str:
    return first_of([f"{node.name} ({node.op_type})" for node in nodes], _NAMED)
