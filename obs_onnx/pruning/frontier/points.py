"""The models of a frontier: checked when they are made, measured together at last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from obs_onnx.allocation.targets import ERROR, TARGETS, TRADED, Targets
from obs_onnx.evaluation.measures.metric import ACCURACY
from obs_onnx.evaluation.model_figures import figures
from obs_onnx.evaluation.quality import Evaluation
from obs_onnx.evaluation.run_cost import measured
from obs_onnx.io.onnx_file import file_size
from obs_onnx.passes.canonical.plainer.written_form import written_form
from obs_onnx.pruning.calibrated import Calibrated
from obs_onnx.pruning.channels.attempt import ChannelAttempt
from obs_onnx.pruning.channels.plan import ChannelPlan
from obs_onnx.pruning.channels.task import ChannelTask
from obs_onnx.pruning.inputs import Inputs
from obs_onnx.pruning.proof import Proven, verify
from obs_onnx.pruning.strategy import Finished
from obs_onnx.results.benchmark import Benchmark
from obs_onnx.results.frontier import Point
from obs_onnx.results.pruning import Latency

__all__ = ["Candidate", "checked", "costs_of", "loss_of", "measured_points", "shared_alerts", "shared_notes"]


@dataclass(frozen=True)
class Candidate:
    """An attempt that kept its promises; what was only needed to make it is gone.

    Attributes:
        proven: the attempt, checked.
        notes, alerts: on it.
    """

    proven: Proven[ChannelAttempt]
    notes: tuple[str, ...]
    alerts: tuple[str, ...] = ()

    @property
    def attempt(self) -> ChannelAttempt:
        """What was checked."""
        return self.proven.result.attempt

    @property
    def result(self) -> Finished[ChannelAttempt]:
        """The model to be written, and what goes with it."""
        return self.proven.result


def checked(plan: ChannelPlan, task: ChannelTask, attempt: ChannelAttempt) -> Candidate:
    """An attempt with its promises checked.

    Raises:
        VerificationError: one is broken.
    """
    finished = plan.finish(task, attempt, Targets())
    finished = replace(finished, attempt=replace(attempt, tensors={}))
    stopwatch = task.calibrated.stopwatch
    general = set() if stopwatch is None else set(stopwatch.notes)
    proven = verify(finished, task.calibrated, task.recorder)
    notes = tuple(note for note in proven.result.notes if note not in general)
    return Candidate(proven, notes, proven.result.alerts)


def measured_points(
    inputs: Inputs, calibrated: Calibrated, candidates: Sequence[Candidate], timing: Benchmark | None
) -> tuple[Point, list[Point]]:
    """The dense model and all candidates, measured."""
    dense, sample = calibrated.dense, calibrated.data.sample
    demands = [
        dense.cost,
        *(measured(dense.runtime, written_form(c.attempt.model), sample) for c in candidates),
    ]
    models = [inputs.original, *(c.result.model for c in candidates)]
    qualities = [c.attempt.quality for c in candidates]
    known = qualities[0] if qualities else Evaluation(0)
    itself = Evaluation(
        known.samples,
        output_error=None if known.output_error is None else 0.0,
        agreement=None if known.agreement is None else 1.0,
    )
    labelled = [dense.labelled, *(c.attempt.labelled for c in candidates)]
    shared = set(shared_notes(candidates))
    own = [(), *(tuple(note for note in c.notes if note not in shared) for c in candidates)]
    found, plain = [], dense.metric is ACCURACY
    rows = zip(demands, models, [itself, *qualities], labelled, own, strict=True)
    for i, (demand, one, quality, judged, notes) in enumerate(rows):
        size = figures(one, None, None, demand)
        times = None if timing is None else Latency.of(timing.latencies[i], inputs.samples)
        ratio = None if timing is None else timing.ratios[i]
        found.append(
            Point(
                latency_ms=None if times is None else times.median,
                latency=times,
                ratio=None if ratio is None else ratio.value,
                ratio_interval=None if ratio is None else (ratio.low, ratio.high),
                macs=size.macs,
                parameters=size.parameters,
                peak_activation_bytes=size.peak_activation_bytes,
                file_bytes=file_size(one),
                output_error=quality.output_error,
                agreement=quality.agreement,
                accuracy=None if judged is None else judged.accuracy,
                metric=None if judged is None or plain else judged.figure(dense.metric),
                part=quality.parts[0].name if len(quality.parts) > 1 else None,
                measures=quality.measures,
                notes=notes,
            )
        )
    return found[0], found[1:]


def loss_of(point: Point, by: str, lower_is_better: bool = False) -> float:
    """What is traded for the cost; inf if nobody knows.

    Args:
        point: which one.
        by: a name in :data:`obs_onnx.allocation.targets.TRADED`.
        lower_is_better: whether less of the metric is better.
    """
    traded = replace(TRADED[by], rises=TRADED[by].rises and not lower_is_better)
    losses = (traded.lost(point), ERROR.lost(point))
    return next((loss for loss in losses if loss is not None), float("inf"))


def costs_of(cost: str, point: Point) -> list[float]:
    """What was measured of a cost at last."""
    return [value for value in TARGETS[cost].measures(point) if value is not None]


def shared_notes(candidates: Sequence[Candidate]) -> list[str]:
    """What is true of all candidates."""
    notes = [one.notes for one in candidates]
    return [note for note in (notes[0] if notes else ()) if all(note in other for other in notes)]


def shared_alerts(candidates: Sequence[Candidate]) -> list[str]:
    """What must not be overlooked of any candidate, once each."""
    return list(dict.fromkeys(alert for one in candidates for alert in one.alerts))
