"""What every search for a smaller model starts from: the dense model measured, data, and what it may take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import onnx_ir as ir

from obs_onnx.allocation.targets import Targets
from obs_onnx.data.feeds import TensorSpec, is_float
from obs_onnx.data.limits import check_batch
from obs_onnx.data.open_source import split
from obs_onnx.data.sources import Source
from obs_onnx.evaluation.data_checks import check_samples, differences, guesses, look, saturation
from obs_onnx.evaluation.finite_outputs import check_outputs
from obs_onnx.evaluation.free_batch import freed_source
from obs_onnx.evaluation.measures.metric import ACCURACY, Metric, open_metric
from obs_onnx.evaluation.measures.next_tokens import find_next_tokens
from obs_onnx.evaluation.measures.options import AUTO
from obs_onnx.evaluation.measures.yardstick import ERROR, Yardstick, yardstick_of
from obs_onnx.evaluation.merged import fitted
from obs_onnx.evaluation.quality import Evaluation, evaluate_sessions
from obs_onnx.evaluation.run_cost import FEW_SAMPLES, MOST_SAMPLES, RunCost, measured
from obs_onnx.evaluation.varying_nodes import varying_notes
from obs_onnx.latency import Stopwatch
from obs_onnx.latency.timing_feed import timing_feed
from obs_onnx.passes.batch.free_batch import FreeBatch
from obs_onnx.passes.canonical.plainer.written_form import written_form
from obs_onnx.passes.errors import DataError, OptionError, named
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.layers.stages import Plan, plan_stages
from obs_onnx.pruning.effort import EFFORTS, LEAST_SAMPLES, Budget
from obs_onnx.pruning.inputs import Inputs, check_fixed_batch, open_calibration
from obs_onnx.pruning.options import SearchOptions
from obs_onnx.runtimes import Runtime, Session
from obs_onnx.runtimes.machine import activation_budget, working_memory
from obs_onnx.runtimes.sessions.partial_run import Values, open_whole
from obs_onnx.runtimes.tool import Tool
from obs_onnx.verification.checker import complaints
from obs_onnx.verification.front import Front
from obs_onnx.work.same_run import work_of
from obs_onnx.work.work_folder import NOWHERE, Work

__all__ = ["HELD_OUT", "Calibrated", "CalibrationData", "DenseModel", "calibrate", "continued"]

HELD_OUT = 0.125
_DAMAGE_SHARE = 0.3
_ROUNDING, _COARSE = 1e-5, 1e-2  # relative differences of outputs, in 32 bits and in 16


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
        yardstick: how its outputs are measured.
        metric: what its quality on labelled data is measured by.
        labelled: how it does on such data, if there is any.
        complaints: what the ONNX checker says of it; a result that is the same in this is no worse.
        batch: how ``model`` was made to take any number of samples, if it was.
        rows: of class scores of one sample.
    """

    model: ir.Model
    layers: Sequence[Layer]
    stages: Plan
    runtime: Runtime
    session: Session
    cost: RunCost
    yardstick: Yardstick
    metric: Metric = ACCURACY
    labelled: Evaluation | None = None
    complaints: tuple[str, ...] = ()
    batch: FreeBatch | None = None
    rows: int = 1

    @property
    def figure(self) -> float | None:
        """The metric on labelled data."""
        return None if self.labelled is None else self.labelled.figure(self.metric)


@dataclass(frozen=True)
class CalibrationData:
    """Calibration data, split, and labelled data.

    Attributes:
        fit, held_out: to learn from, and to measure errors on.
        labelled: for the metric, or None.
        seed: of everything random.
        notes: what the user should know about the data.
        alerts: what must not be overlooked.
        batch: samples that are run at once, where that is free.
        few: of them at least in :attr:`first`.
    """

    fit: Source
    held_out: Source
    labelled: Source | None
    seed: int
    notes: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()
    batch: int = MOST_SAMPLES
    few: int = FEW_SAMPLES

    def rebatch(self, batch: int, few: int = FEW_SAMPLES) -> CalibrationData:
        """The same data, so many samples at once."""
        labelled = None if self.labelled is None else self.labelled.rebatch(batch)
        held_out = self.held_out.rebatch(batch)
        return replace(
            self,
            fit=self.fit.rebatch(batch),
            held_out=held_out,
            labelled=held_out if self.labelled is self.held_out else labelled,
            batch=batch,
            few=few,
        )

    @cached_property
    def first(self) -> Values:
        """A batch of held-out data, of some samples even where fewer than that are run at once."""
        return next(iter(self.held_out if self.batch >= self.few else self.held_out.rebatch(self.few)))

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
        front: where the model was cut.
        timing: held-out samples that models are timed on, where latency is wanted at all.
        stopwatch: times models where latency is a target.
        rounding: relative difference that rounding may make of the outputs.
        work: where finished pieces of the run are kept.
        tool: tells costs, if one does.
    """

    dense: DenseModel
    data: CalibrationData
    budget: Budget
    front: Front
    timing: Values | None = None
    stopwatch: Stopwatch | None = None
    rounding: float = 1e-5
    work: Work = NOWHERE
    tool: Tool | None = None

    @property
    def yardstick(self) -> Yardstick:
        """How outputs are measured, and with it the damage that allocation minimises."""
        return self.dense.yardstick

    @property
    def file_timing(self) -> Values | None:
        """The same, as many samples as the model takes as it came in, and as its files take."""
        batch, feed = self.dense.batch, self.timing
        return feed if batch is None or feed is None else fitted(feed, batch.inputs, batch.size)


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
    session = open_whole(where, model)
    if options.latency or targets.timed:
        check_batch(session.inputs, options.batch)
    data, memory = _open_data(inputs, session, options), working_memory(options.memory)
    cost = measured(where, written_form(model), data.sample)
    data = data.rebatch(cost.samples(memory), cost.few(memory))
    first = data.first
    rows = max((array.shape[0] for array in first.values() if array.ndim), default=1)
    answer = session.run(first)
    notes = [*inputs.front.notes, *inputs.notes, *data.notes, *varying_notes(model, rows)]
    yardstick = _yardstick(session, model, inputs, data, targets, options, notes)
    if said := complaints(model):
        notes.append(
            f"the ONNX checker does not pass the dense model, which {where.spec} runs: {said[0]}; "
            "the result may have this, and nothing new"
        )
    data = replace(data, notes=tuple(dict.fromkeys([*notes, *yardstick.notes])))
    metric = open_metric(options.metric, options.metric_lower_is_better, yardstick.task)
    labelled = None
    if data.labelled is not None:
        labelled = evaluate_sessions(session, data.labelled, yardstick=yardstick, metric=metric)
    alerts = _doubts(data, answer, yardstick, labelled)
    for alert in alerts:
        options.shown.say(f"warning: {alert}")
    data = replace(data, alerts=alerts)
    stages = plan_stages(model, layers)
    dense = DenseModel(
        model, layers, stages, where, session, cost, yardstick, metric, labelled, said, inputs.batch,
        1 if yardstick.scores is None else max(1, len(yardstick.scores.rows(answer)) // max(rows, 1)),
    )  # fmt: skip
    _check_measurable(targets, answer, dense)
    timing, stopwatch, effort = None, None, EFFORTS[options.effort]
    if options.latency or targets.timed:
        check_fixed_batch(inputs, options)
        timing = timing_feed(data.held_out, session.inputs, options.batch)
    if targets.timed and timing is not None:
        whole = inputs.original if inputs.front.runs and inputs.batch is None else inputs.model
        stopwatch = Stopwatch(inputs.target, where, whole, timing, options.round_to, effort.widths)
    return Calibrated(
        dense,
        data,
        Budget(effort, activation_budget(memory), memory),
        inputs.front,
        timing,
        stopwatch,
        _ROUNDING if all(array.dtype.itemsize > 2 for array in answer.values()) else _COARSE,
        tool=inputs.tool,
    )


def continued(inputs: Inputs, calibrated: Calibrated, options: SearchOptions, command: str) -> Calibrated:
    """The same with the pieces that an earlier run has finished, where ``options`` name a folder of them.

    The memory that the first run may use is that of every further one: it may decide how data is cut.

    Args:
        inputs: the model as it came in.
        calibrated: without such pieces.
        options: of the run.
        command: that runs.

    Raises:
        OptionError: pieces cannot be kept where the options say, or are of another run.
    """
    data, budget, stopwatch = calibrated.data, calibrated.budget, calibrated.stopwatch
    sources = [data.fit, data.held_out, *(() if data.labelled is None else (data.labelled,))]
    models = [inputs.original, calibrated.dense.model]
    work = work_of(options, command, models, sources, inputs.runtime.environment())
    memory = work.stage("memory").one(int, "bytes", lambda: budget.memory)
    return replace(
        calibrated,
        budget=replace(budget, memory=memory),
        stopwatch=None if stopwatch is None else replace(stopwatch, work=work),
        work=work,
    )


def _yardstick(
    session: Session,
    model: ir.Model,
    inputs: Inputs,
    data: CalibrationData,
    targets: Targets,
    options: SearchOptions,
    notes: list[str],
) -> Yardstick:
    """How the outputs are measured, from what the dense model gives for calibration data.

    ``notes`` gets what is told of outputs that are not finite.

    Raises:
        ModelError: outputs that hold NaN.
    """
    feed, labels = next((data.labelled or data.held_out).batches())
    samples = EFFORTS[options.effort].samples

    def answers() -> Iterator[Values]:
        for one in chain(data.held_out, data.fit.limit(samples)):
            answer = session.run(one)
            notes.extend(check_outputs(inputs.runtime, model, one, answer))
            yield answer

    answer = session.run(feed)
    return yardstick_of(
        answers(),
        model=model,
        task=options.task,
        labelled=None if labels is None else (answer, labels),
        weights=options.weight,
        loss=ERROR if options.loss == AUTO and not targets.limited else options.loss,
        axes=inputs.front.class_axes,
        tokens=find_next_tokens(session, feed, answer, model),
    )


def _check_measurable(targets: Targets, answer: Values, dense: DenseModel) -> None:
    """Refuse targets about what cannot be measured.

    Args:
        targets: that are wanted.
        answer: outputs of the model for a batch.
        dense: the model.

    Raises:
        DataError, OptionError: the first of them.
    """
    floats = any(is_float(array.dtype) for array in answer.values())
    for target, amount in targets:
        if target.labels and dense.figure is None:
            raise DataError(f"target {target.name} needs labelled data: give {named('eval')} with labels")
        if target.labels and dense.metric.function is None and amount.value >= 1:
            raise OptionError(f"target {target.name}={amount.plain}: {dense.metric.name} is at most 1")
        if target.floats and not floats:
            raise OptionError(
                f"no output of the model is of a float type, so it has no {target.name}: give another target"
            )


def _doubts(
    data: CalibrationData, answer: Values, yardstick: Yardstick, labelled: Evaluation | None
) -> tuple[str, ...]:
    """What makes any result on the data doubtful.

    Args:
        data: for calibration, and with labels.
        answer: outputs of the dense model for the first held-out batch.
        yardstick: how outputs are measured.
        labelled: quality of the dense model on data with labels.

    Raises:
        DataError: all samples are the same.
    """
    seen = look(data.fit, data.held_out)
    found = check_samples(seen)
    if data.labelled is not None and data.labelled is not data.held_out:
        found += differences(seen, look(data.labelled))
    rows = None if yardstick.scores is None else yardstick.scores.rows(answer)
    found += saturation(seen, answer, rows)
    if labelled is not None and rows is not None:
        found += guesses(labelled.accuracy, labelled.samples, rows.shape[1])
    return tuple(found)


def _open_data(inputs: Inputs, session: Session, options: SearchOptions) -> CalibrationData:
    def opened(what: Any) -> Source:
        def read(specs: Sequence[TensorSpec]) -> Source:
            asked = replace(options, calib=what)
            tokens = None if inputs.fewer is None else inputs.fewer.tokens
            return open_calibration(specs, inputs.path, asked, inputs.sizes, tokens)

        return freed_source(inputs.batch, session.inputs, MOST_SAMPLES, read)

    source = opened(options.calib)
    fit, held_out = split(source, HELD_OUT, options.seed)
    labelled = held_out if held_out.has_labels or options.metric is not None else None
    if options.eval is not None:
        labelled = opened(options.eval)
    return CalibrationData(fit, held_out, labelled, options.seed, source.notes)
