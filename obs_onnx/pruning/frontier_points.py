"""The models of a frontier: checked when they are made, measured together at last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from obs_onnx.allocation.targets import Targets
from obs_onnx.evaluation.model_figures import figures
from obs_onnx.evaluation.quality import Evaluation
from obs_onnx.evaluation.run_cost import measured
from obs_onnx.io.onnx_file import serialize
from obs_onnx.pruning.channels.attempt import ChannelAttempt
from obs_onnx.pruning.channels.search import ChannelTrials
from obs_onnx.pruning.inputs import PruningInputs
from obs_onnx.pruning.mode import Finished
from obs_onnx.results.benchmark import Benchmark
from obs_onnx.results.frontier import Point
from obs_onnx.results.pruning import Latency
from obs_onnx.runtimes.partial_run import Values

__all__ = ["Candidate", "checked", "costs_of", "loss_of", "measured_points", "shared_notes"]

_MEASURES: Mapping[str, tuple[str, ...]] = {
    "latency": ("ratio", "latency_ms"),
    "macs": ("macs",),
    "params": ("parameters",),
    "size": ("file_bytes",),
    "ram": ("peak_activation_bytes",),
}


@dataclass(frozen=True)
class Candidate:
    """An attempt that kept its promises; what was only needed to make it is gone."""

    attempt: ChannelAttempt
    finished: Finished
    expected: Values
    notes: tuple[str, ...]


def checked(given: PruningInputs, study: ChannelTrials, attempt: ChannelAttempt) -> Candidate:
    """An attempt with its promises checked.

    Raises:
        VerificationError: one is broken.
    """
    finished, expected = given.finish(study, attempt, Targets())
    general = set() if study.stopwatch is None else set(study.stopwatch.notes)
    notes = tuple(note for note in finished.notes if note not in general)
    return Candidate(replace(attempt, tensors={}), finished, expected, notes)


def measured_points(
    given: PruningInputs, candidates: Sequence[Candidate], timing: Benchmark | None
) -> tuple[Point, list[Point]]:
    """The dense model and all candidates, measured."""
    demands = [given.demand, *(measured(given.where, c.attempt.model, given.sample) for c in candidates)]
    models = [given.opened.model, *(c.finished.model for c in candidates)]
    qualities = [c.attempt.quality for c in candidates]
    known = qualities[0] if qualities else Evaluation(0)
    itself = Evaluation(
        known.samples,
        output_error=None if known.output_error is None else 0.0,
        agreement=None if known.agreement is None else 1.0,
    )
    drops = [0.0, *(c.attempt.drop for c in candidates)]
    shared = set(shared_notes(candidates))
    own = [(), *(tuple(note for note in c.notes if note not in shared) for c in candidates)]
    found = []
    rows = zip(demands, models, [itself, *qualities], drops, own, strict=True)
    for i, (demand, one, quality, drop, notes) in enumerate(rows):
        size = figures(one, None, None, demand)
        times = None if timing is None else timing.latencies[i]
        ratio = None if timing is None else timing.ratios[i]
        found.append(
            Point(
                latency_ms=None if times is None else times.median,
                latency=None if times is None else Latency(times.median, times.p10, times.p90, times.runs),
                ratio=None if ratio is None else ratio.value,
                ratio_interval=None if ratio is None else (ratio.low, ratio.high),
                macs=size.macs,
                parameters=size.parameters,
                peak_activation_bytes=size.peak_activation_bytes,
                file_bytes=len(serialize(one)),
                output_error=quality.output_error,
                agreement=quality.agreement,
                accuracy=None if given.accuracy is None or drop is None else given.accuracy - drop,
                notes=notes,
            )
        )
    return found[0], found[1:]


def loss_of(point: Point, by: str) -> float:
    """What is traded for the cost; inf if nobody knows."""
    value = point.output_error if by == "error" or point.accuracy is None else -point.accuracy
    return float("inf") if value is None else value


def costs_of(cost: str, point: Point) -> list[float]:
    """What was measured of a cost at last."""
    return [getattr(point, name) for name in _MEASURES[cost]]


def shared_notes(candidates: Sequence[Candidate]) -> list[str]:
    """What is true of all candidates."""
    notes = [one.notes for one in candidates]
    return [note for note in (notes[0] if notes else ()) if all(note in other for other in notes)]
