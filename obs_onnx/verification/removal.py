"""A model without channels gives what the dense model gives with them silenced."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.channels.coupling import Coupling, Keep
from obs_onnx.passes.channels.silence import silence
from obs_onnx.passes.errors import VerificationError
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.inputs import input_names
from obs_onnx.passes.graph.scopes import reads
from obs_onnx.passes.ops import lookup
from obs_onnx.runtimes.base import Runtime
from obs_onnx.runtimes.partial_run import Values, open_part, run_feed
from obs_onnx.verification.layer_errors import difference, energy, finite

__all__ = ["check_removal", "decided_outputs"]


_LATER_DECISION = 0.1  # relative difference of what a decision rests on that has others before it


def check_removal(
    runtime: Runtime, dense: Coupling, keep: Keep, small: ir.Model, feed: Values
) -> tuple[float, float]:
    """Compare a model without channels to the one of full size in which they have no effect.

    Outputs that differ from run to run are left out. Behind a decision (the largest score, what lies over a
    threshold) rounding may turn the outputs into others: then the decisions have to rest on equal numbers.

    Args:
        runtime: where both run.
        dense: of the prepared model with the weights of ``small`` in their places.
        keep: channels that ``small`` still has.
        small: without the others.
        feed: what both get.

    Returns:
        Largest relative difference of an output (Frobenius norms), and what is allowed.

    Raises:
        VerificationError: it is larger.
    """
    silenced = silence(dense.model, keep, dense)
    reference = runtime.session(serialize(silenced))
    expected = run_feed(reference, feed)
    found = run_feed(runtime.session(serialize(small)), feed)
    tolerance = 3e-2 if any(_is_short(y) for y in expected.values()) else 1e-3
    off = {name: _relative(found[name], y) for name, y in expected.items()}
    if wrong := {name for name, difference in off.items() if not difference <= tolerance}:
        again = run_feed(reference, feed)
        excused = {name for name in wrong if not _relative(again[name], expected[name]) <= tolerance / 10}
        decided = decided_outputs(silenced) & wrong
        if decided and _decide_alike(runtime, silenced, small, feed, tolerance, _Kept(dense, keep)):
            excused |= decided
        for name in wrong - excused:
            if found[name].shape != expected[name].shape:
                raise VerificationError(
                    f"output {name} has shape {found[name].shape} without the channels, "
                    f"not {expected[name].shape}"
                )
        off = {name: difference for name, difference in off.items() if name not in excused}
    worst = max(off.values(), default=0.0)
    if not worst <= tolerance:
        raise VerificationError(
            f"the smaller model differs by {worst:.1e} from the dense one with the channels silenced"
        )
    return worst, tolerance


def _is_short(y: NDArray[Any]) -> bool:
    return y.dtype.kind not in "OSUbiu" and y.dtype.itemsize < 4


def _relative(y: NDArray[Any], reference: NDArray[Any]) -> float:
    """Relative difference (Frobenius norms); 0 of what holds no fractions, inf between different shapes."""
    if y.shape != reference.shape:
        return float("inf")
    if reference.dtype.kind in "OSUbiu":
        return 0.0
    a, b = y.astype(np.float64), reference.astype(np.float64)
    norm = np.sqrt(energy(finite(b))) or 1.0
    return float(np.sqrt(energy(np.where(np.isnan(a) & np.isnan(b), 0.0, difference(a, b)))) / norm)


class _Kept:
    """Cuts values of the dense model to the channels that stay."""

    def __init__(self, coupling: Coupling, keep: Keep) -> None:
        self._coupling, self._alive = coupling, coupling.alive(keep)
        self._names = {str(value.name): value for value in coupling.graph.labels}

    def __call__(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        axes = self._coupling.axes(self._names[name]) if name in self._names else None
        for axis, labels in enumerate(axes or ()):
            if not (stays := self._alive(labels)).all():
                array = array.compress(stays, axis=axis)
        return array


def _decide_alike(
    runtime: Runtime, silenced: ir.Model, small: ir.Model, feed: Values, tolerance: float, kept: _Kept
) -> bool:
    """Whether what decisions rest on is equal in both models, as far as both have it.

    Behind a first decision that turned out otherwise, the next ones need only be much the same.
    """
    here, there = ({str(v.name) for node in model.graph for v in node.outputs} for model in (silenced, small))
    inputs = input_names(silenced)
    behind = _behind_decisions(silenced)
    limits = {
        str(value.name): _LATER_DECISION if value in behind else tolerance
        for node in silenced.graph
        if lookup(node).decides
        for value in node.inputs
        if value is not None
        and str(value.name) in here & there
        and (value.dtype is None or value.dtype.is_floating_point())
    }
    if not limits:
        return False
    first, second = (
        run_feed(open_part(runtime, extract(model, inputs, limits)), feed) for model in (silenced, small)
    )
    return all(_relative(second[name], kept(name, y)) <= limits[name] for name, y in first.items())


def decided_outputs(model: ir.Model) -> set[str]:
    """Outputs that follow from a decision taken on numbers: an index, a comparison, a rounded number."""
    behind = _behind_decisions(model)
    return {str(value.name) for value in model.graph.outputs if value in behind}


def _behind_decisions(model: ir.Model) -> set[ir.Value]:
    behind: set[ir.Value] = set()
    for node in model.graph:
        if lookup(node).decides or any(value in behind for value in reads(node)):
            behind.update(node.outputs)
    return behind
