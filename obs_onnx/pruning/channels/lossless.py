"""The smaller model without the channels that change nothing: where every search starts, and error=0 ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from obs_onnx.allocation.channels import Quantum, admissible
from obs_onnx.calibration.layer_weights import Tensors, regrouped
from obs_onnx.passes.channels.coupling import Coupling
from obs_onnx.passes.channels.redundant import Redundant, find_redundant
from obs_onnx.passes.costs.widths import Widths, widths_of
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.inputs import input_names
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.pruning.channels.attempt import ChannelAttempt, Keeps
from obs_onnx.pruning.channels.selection import quanta
from obs_onnx.pruning.channels.task import ChannelTask
from obs_onnx.pruning.judgement import judge
from obs_onnx.reconstruction.channels import spread
from obs_onnx.runtimes.base import Runtime
from obs_onnx.runtimes.sessions.partial_run import Values, open_part, run_feed

__all__ = ["Lossless", "lossless", "redundant_in", "unchanged"]


@dataclass(frozen=True)
class Lossless:
    """A model without channels that change nothing.

    Attributes:
        attempt: it; None where no channel may go.
        tensors: of the dense model, in which what channels that change nothing gave has moved to others.
        note: for the reader.
    """

    attempt: ChannelAttempt | None = None
    tensors: Tensors = field(default_factory=dict)
    note: str = ""


def redundant_in(runtime: Runtime, coupling: Coupling, layers: Sequence[Layer], feed: Values) -> Redundant:
    """Channels of a model that change nothing, with the constants of one run."""

    def values(names: Sequence[str], changed: Mapping[str, NDArray[np.float64]]) -> Values:
        model = SetWeights(changed)(coupling.model.clone()).model
        return run_feed(open_part(runtime, extract(model, input_names(model), names), feed), feed)

    plain = [layer for layer in layers if layer.integers is None]
    return find_redundant(coupling, plain, values)


def lossless(task: ChannelTask) -> Lossless:
    """Remove what changes nothing, and nothing else, and compare the outputs.

    Args:
        task: the dense model and its data.
    """
    calibrated = task.calibrated
    dense, coupling, rounding = calibrated.dense, task.channels.coupling, calibrated.rounding
    with task.recorder.stage("find redundant channels"):
        found = redundant_in(dense.runtime, coupling, dense.layers, calibrated.data.first)
        if not found.channels:
            return Lossless()
        attempt = _attempt(task, _aligned(task, found), dict(found.tensors))
    error = attempt.quality.output_error
    if error is not None and not error <= rounding:
        note = (
            f"channels that seemed to change nothing change the outputs by {error:.1e}: they count as others"
        )
        return Lossless(note=note)
    gone = sum(int((~mask).sum()) for mask in attempt.keep.values())
    kinds = ", ".join(f"{number} {kind}" for kind, number in found.kinds.items())
    compared = "" if error is None else f"; without them the outputs differ by {error:.1e} on held-out data"
    note = (
        f"{sum(found.kinds.values())} channels change nothing ({kinds}), {gone} of them went first{compared}"
    )
    return Lossless(attempt if gone else None, attempt.tensors, note)


def unchanged(task: ChannelTask) -> ChannelAttempt:
    """The dense model itself."""
    return _attempt(task, {group.id: np.ones(group.n, bool) for group in task.channels.coupling.groups}, {})


def _attempt(task: ChannelTask, keep: Keeps, tensors: Tensors) -> ChannelAttempt:
    """A model without channels, whose other weights are as they are but for ``tensors``."""
    dense, selection, coupling = task.calibrated.dense, task.channels.select(keep), task.channels.coupling
    small = SetWeights(tensors)(dense.model.clone()).model
    task.channels.remove(selection, small)
    rounded = regrouped(small)
    tensors = {**tensors, **spread(coupling, selection.keep, rounded)}
    SetWeights(rounded)(small)
    judged = judge(small, task.calibrated, task.recorder)
    nothing = dict.fromkeys(keep, 0.0)
    costs = task.costs.of(small)
    return ChannelAttempt(judged.quality, judged.drop, small, selection.keep, tensors, nothing, costs)


def _aligned(task: ChannelTask, found: Redundant) -> Keeps:
    """Masks without redundant channels, as far as the counts that are left may be kept."""
    coupling, wanted = task.channels.coupling, task.options.round_to
    widths = None if wanted is None else widths_of(coupling, wanted)
    steps: Mapping[int, Quantum]
    steps = quanta(coupling, task.calibrated.dense.runtime.quantum) if widths is None else widths.steps
    counts = {}
    for group in coupling.groups:
        allowed = admissible(group.n, steps[group.id])
        counts[group.id] = int(allowed[allowed >= group.n - len(found.channels.get(group.id, ()))][0])
    _unbroken(widths, counts, {group.id: group.n for group in coupling.groups})
    keep = {group.id: np.ones(group.n, bool) for group in coupling.groups}
    for number, channels in found.channels.items():
        keep[number][channels[: len(keep[number]) - counts[number]]] = False
    return keep


def _unbroken(widths: Widths | None, counts: dict[int, int], whole: Mapping[int, int]) -> None:
    """Leave groups whole, in place, until all sums of widths hold."""
    while widths is not None:
        broken = [one for one in widths.sums if not one.holds(counts, widths.multiple)]
        if not broken:
            return
        counts.update({group: whole[group] for one in broken for group in one.groups})
