"""How a pruned model does, and how far it is from its targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.allocation.targets import Targets
from obs_onnx.evaluation.quality import Evaluation, evaluate_sessions
from obs_onnx.passes.canonical.plainer.written_form import written_form
from obs_onnx.pruning.calibrated import Calibrated, CalibrationData, DenseModel
from obs_onnx.pruning.recorder import Recorder
from obs_onnx.results.pruning import Missed
from obs_onnx.runtimes.sessions.partial_run import open_whole
from obs_onnx.training.loop import Trained

__all__ = ["Attempt", "Judged", "Refinement", "judge", "missed_losses", "refinement_notes", "with_model"]


@dataclass(frozen=True)
class Judged:
    """How a pruned model does.

    Attributes:
        quality: against the dense model, on held-out data.
        drop: how much worse the metric is, in its own unit (of the accuracy: a share), if there are labels.
        labelled: on labelled data, if there is any.
    """

    quality: Evaluation
    drop: float | None
    labelled: Evaluation | None = field(default=None, kw_only=True)

    def strain(self, targets: Targets) -> float:
        """Largest ratio of a measured figure to its limit; at most 1 if all limits hold."""
        return targets.strain(self)


@dataclass(frozen=True)
class Refinement:
    """What steps of all weights together did.

    Attributes:
        weights: initializers that changed.
        note: for the reader.
    """

    weights: Mapping[str, NDArray[Any]]
    note: str


@dataclass(frozen=True)
class Attempt(Judged):
    """A pruned model and how it does.

    Attributes:
        model: in the form that is calibrated.
        training: what retraining did, if there was any.
        refined: what steps of all weights together did.
    """

    model: ir.Model
    training: Trained | None = field(default=None, kw_only=True)
    refined: Refinement | None = field(default=None, kw_only=True)


AttemptT = TypeVar("AttemptT", bound=Attempt)


def with_model(attempt: AttemptT, model: ir.Model, judged: Judged, **more: Any) -> AttemptT:
    """An attempt with another model, judged as that does, and with ``more`` fields of its own."""
    return replace(
        attempt, model=model, quality=judged.quality, drop=judged.drop, labelled=judged.labelled, **more
    )


def refinement_notes(attempt: Attempt) -> list[str]:
    """What the reader is told of steps of all weights together."""
    return [attempt.refined.note] if attempt.refined is not None and attempt.refined.note else []


def missed_losses(targets: Targets, judged: Judged) -> tuple[Missed, ...]:
    """Targets on quality that do not hold."""
    limited = [one.name for one, _ in targets if one.loss is None]
    advice = f"what {' and '.join(limited)} allows loses that much: allow more, or retrain" if limited else ""
    return tuple(
        Missed(one.name, amount.plain, loss, advice=advice)
        for one, amount, loss in targets.losses(judged)
        if loss > targets.allowed(one, amount)
    )


def judge(model: ir.Model, calibrated: Calibrated, recorder: Recorder) -> Judged:
    """Measure a pruned model on held-out (and labelled) data, unless that was done before."""
    model = written_form(model)
    with recorder.stage("evaluate"):
        work = calibrated.work.stage("evaluate", model)
        return work.one(Judged, "figures", lambda: _judged(model, calibrated.dense, calibrated.data))


def _judged(model: ir.Model, dense: DenseModel, data: CalibrationData) -> Judged:
    session, yardstick, metric = open_whole(dense.runtime, model), dense.yardstick, dense.metric
    quality = evaluate_sessions(session, data.held_out, dense.session, yardstick=yardstick)
    labelled = drop = None
    if data.labelled is not None and dense.figure is not None:
        labelled = evaluate_sessions(session, data.labelled, yardstick=yardstick, metric=metric)
        figure = labelled.figure(metric)
        drop = None if figure is None else metric.lost(dense.figure, figure)
    return Judged(quality, drop, labelled=labelled)
