"""What every search for a smaller model starts from: the dense model measured, data, and what it may take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import onnx_ir as ir

from obs_onnx.allocation.targets import Targets
from obs_onnx.data.feeds import is_float
from obs_onnx.data.limits import check_batch
from obs_onnx.data.open_source import open_source, split
from obs_onnx.data.sources import Source
from obs_onnx.evaluation.finite_outputs import check_outputs
from obs_onnx.evaluation.output_damage import AUTO, ERROR, choose_measure
from obs_onnx.evaluation.quality import evaluate_sessions
from obs_onnx.evaluation.run_cost import RunCost, measured
from obs_onnx.evaluation.varying_nodes import varying_notes
from obs_onnx.io.onnx_file import serialize
from obs_onnx.io.paths import calibration_of
from obs_onnx.latency import Stopwatch, timing_feed
from obs_onnx.passes.errors import DataError, OptionError, named
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.layers.stages import Plan, plan_stages
from obs_onnx.pruning.effort import EFFORTS, LEAST_SAMPLES, Budget
from obs_onnx.pruning.inputs import Inputs
from obs_onnx.pruning.options import SearchOptions
from obs_onnx.runtimes import Runtime, Session
from obs_onnx.runtimes.machine import activation_budget
from obs_onnx.runtimes.partial_run import Values
from obs_onnx.verification.checker import complaints

__all__ = ["BATCH", "HELD_OUT", "Calibrated", "CalibrationData", "DenseModel", "calibrate"]

BATCH = 128
HELD_OUT = 0.125
_DAMAGE_SHARE = 0.3


@dataclass(frozen=True)
class DenseModel:
    """A model before anything is pruned.

    Attributes:
        model: in the form that is calibrated.
        layers: that may change.
        stages: of ``layers``.
        runtime: where models are calibrated and judged.
        session: of ``model``.
        cost: of one run on one sample.
        accuracy: on labelled data, if there is any.
        complaints: what the ONNX checker says of it; a result that is the same in this is no worse.
    """

    model: ir.Model
    layers: Sequence[Layer]
    stages: Plan
    runtime: Runtime
    session: Session
    cost: RunCost
    accuracy: float | None
    complaints: tuple[str, ...] = ()


@dataclass(frozen=True)
class CalibrationData:
    """Calibration data, split, and labelled data.

    Attributes:
        fit, held_out: to learn from, and to measure errors on.
        labelled: for the accuracy, or None.
        seed: of everything random.
        notes: what the user should know about the data.
        alerts: what must not be overlooked.
    """

    fit: Source
    held_out: Source
    labelled: Source | None
    seed: int
    notes: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()

    @cached_property
    def first(self) -> Values:
        """A batch of held-out data."""
        return next(iter(self.held_out))

    @cached_property
    def sample(self) -> Values:
        """One held-out sample."""
        return next(iter(self.held_out.rebatch(1)))

    def for_damage(self) -> tuple[Source, Source]:
        """Data for the moments behind damage curves, and other data on which the damage is measured.

        With very little data, all of it serves both purposes.
        """
        if self.fit.count is None or self.fit.count * (1 - _DAMAGE_SHARE) >= LEAST_SAMPLES:
            return self.fit.split(_DAMAGE_SHARE, self.seed)
        return self.fit, self.fit


@dataclass(frozen=True)
class Calibrated:
    """A dense model and its data.

    Attributes:
        dense: the model.
        data: to learn from and to measure on.
        budget: what measuring may take.
        measure: damage that allocation minimises, see :class:`obs_onnx.evaluation.output_damage.Damage`.
        timing: held-out samples that models are timed on, where latency is wanted at all.
        stopwatch: times models where latency is a target.
    """

    dense: DenseModel
    data: CalibrationData
    budget: Budget
    measure: str
    timing: Values | None = None
    stopwatch: Stopwatch | None = None

    def cost_note(self, what: str, parts: int) -> str:
        """What measuring so many parts of the model will cost, from one timed batch."""
        dense, data, effort = self.dense, self.data, self.budget.effort
        feed = data.first
        start = time.perf_counter()
        dense.session.run(feed)
        rows = max((array.shape[0] for array in feed.values() if array.ndim), default=1)
        per_sample = (time.perf_counter() - start) / max(rows, 1)
        samples = effort.samples
        if data.fit.count is not None:
            samples = min(samples, int(data.fit.count * _DAMAGE_SHARE))
        levels, samples = effort.bounded(parts, dense.cost.macs, len(dense.model.graph), samples)
        runs = parts * levels * samples / 2 + 4 * (data.fit.count or samples)
        return (
            f"measuring {parts} {what} at {levels} levels or more on {samples} samples: "
            f"about {runs * per_sample:.0f} s of inference"
        )


def calibrate(
    inputs: Inputs, model: ir.Model, layers: Sequence[Layer], targets: Targets, options: SearchOptions
) -> Calibrated:
    """Open the data, and measure the dense model.

    Args:
        inputs: the model as it came in, and where it runs.
        model: the same in the form that is calibrated.
        layers: of it that may change.
        targets: that are wanted.
        options: about data, effort and latency.

    Raises:
        DataError, OptionError: bad input.
    """
    where = inputs.runtime
    session = where.session(serialize(model))
    if options.latency or targets.timed:
        check_batch(session.inputs, options.batch)
    data = _open_data(inputs, session, options)
    accuracy = None if data.labelled is None else evaluate_sessions(session, data.labelled).accuracy
    first = data.first
    rows = max((array.shape[0] for array in first.values() if array.ndim), default=1)
    notes = [*data.notes, *varying_notes(model, rows)]
    for feed in (next(iter(data.fit)), first):
        answer = session.run(feed)
        notes += check_outputs(where, model, feed, answer)
    if said := complaints(model):
        notes.append(
            f"the ONNX checker does not pass the dense model, which {where.spec} runs: {said[0]}; "
            "the result may have this, and nothing new"
        )
    data = replace(data, notes=tuple(dict.fromkeys(notes)))
    _check_measurable(targets, answer, labelled=accuracy is not None)
    cost = measured(where, model, data.sample)
    stages = plan_stages(model, layers)
    dense = DenseModel(model, layers, stages, where, session, cost, accuracy, said)
    timing, stopwatch, effort = None, None, EFFORTS[options.effort]
    if options.latency or targets.timed:
        timing = timing_feed(data.held_out, session.inputs, options.batch)
    if targets.timed and timing is not None:
        stopwatch = Stopwatch(inputs.target, where, inputs.model, timing, options.round_to, effort.widths)
    loss = ERROR if options.loss == AUTO and not targets.limited else options.loss
    return Calibrated(
        dense,
        data,
        Budget(effort, activation_budget(options.memory)),
        choose_measure(loss, answer),
        timing,
        stopwatch,
    )


def _check_measurable(targets: Targets, answer: Values, *, labelled: bool) -> None:
    """Refuse targets about what cannot be measured.

    Args:
        targets: that are wanted.
        answer: outputs of the model for a batch.
        labelled: there are labels.

    Raises:
        DataError, OptionError: the first of them.
    """
    floats = any(is_float(array.dtype) for array in answer.values())
    for target, _ in targets:
        if target.labels and not labelled:
            raise DataError(
                f"target {target.name} needs labelled data: give {named('evaluation')} with labels"
            )
        if target.floats and not floats:
            raise OptionError(
                f"no output of the model is of a float type, so it has no {target.name}: give another target"
            )


def _open_data(inputs: Inputs, session: Session, options: SearchOptions) -> CalibrationData:
    source = open_source(
        calibration_of(options.calib, inputs.path),
        session.inputs,
        batch_size=BATCH,
        labels_key=options.labels,
        seed=options.seed,
        memory=options.memory,
    )
    fit, held_out = split(source, HELD_OUT, options.seed)
    labelled = held_out if held_out.has_labels else None
    if options.evaluation is not None:
        labelled = open_source(
            options.evaluation,
            session.inputs,
            batch_size=BATCH,
            labels_key=options.labels,
            seed=options.seed,
        )
    return CalibrationData(fit, held_out, labelled, options.seed, source.notes)
