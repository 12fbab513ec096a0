"""pareto(): the frontier of smaller models from one calibration.

open -> find channels -> calibration data -> measure damage and latency, once -> for each limit: allocate,
remove, refit -> verify all -> time all in turn -> keep what nothing dominates -> write
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import onnx_ir as ir

from obs_onnx.allocation.targets import ERROR, METRIC, TRADED, Targets
from obs_onnx.cluster.executor import Executor
from obs_onnx.cluster.opening import opened
from obs_onnx.entrypoints.files import check_files
from obs_onnx.entrypoints.options.keywords import takes
from obs_onnx.entrypoints.options.pareto import ParetoOptions
from obs_onnx.evaluation.measures.metric import ACCURACY
from obs_onnx.evaluation.measures.options import AUTO
from obs_onnx.evaluation.measures.yardstick import CHANGED
from obs_onnx.io.atomic_files import together
from obs_onnx.io.json_file import write_json
from obs_onnx.io.onnx_file import ModelLike, name_of, save_model
from obs_onnx.io.paths import keep_path
from obs_onnx.latency.benchmark import bench
from obs_onnx.latency.noise import Noise
from obs_onnx.option import asked
from obs_onnx.passes.canonical.plainer.written_form import written_form
from obs_onnx.passes.errors import DataError, OptionError, boundary, named, tried
from obs_onnx.pruning.calibrated import Calibrated, calibrate, continued
from obs_onnx.pruning.channels.attempt import ChannelAttempt
from obs_onnx.pruning.channels.lossless import lossless
from obs_onnx.pruning.channels.plan import ChannelPlan, ChannelStrategy
from obs_onnx.pruning.channels.round import Round
from obs_onnx.pruning.forecast.forecast import UNKNOWN
from obs_onnx.pruning.frontier.points import (
    Candidate,
    checked,
    costs_of,
    loss_of,
    measured_points,
    shared_alerts,
    shared_notes,
)
from obs_onnx.pruning.frontier.search import FrontierSearch, target
from obs_onnx.pruning.inputs import Inputs, load
from obs_onnx.pruning.language.cache_config import new_configs
from obs_onnx.pruning.options import ModeOptions
from obs_onnx.pruning.recorder import Recorder
from obs_onnx.report.frontier_plot import check_matplotlib, write_frontier
from obs_onnx.report.frontier_table import frontier_line
from obs_onnx.results.benchmark import Benchmark
from obs_onnx.results.frontier import Frontier, Point, undominated
from obs_onnx.runtimes.sessions.partial_run import timable

__all__ = ["Pareto", "pareto"]

_MORE = 0.5  # attempts, as a share of the points wanted, that fill gaps
_NEAR = 1.01  # a cost that is so much larger than the least one wanted is worth a note


@dataclass(frozen=True)
class Pareto:
    """What :func:`pareto` returns.

    Attributes:
        frontier: everything measured.
        models: those of ``frontier.kept``, in the same order.
    """

    frontier: Frontier
    models: tuple[ir.Model, ...]

    def summary(self) -> str:
        """The frontier in one line."""
        return frontier_line(self.frontier)


@takes(ParetoOptions)
def pareto(model: ModelLike, options: ParetoOptions) -> Pareto:
    """Trade a cost for quality: several smaller models, of which no one is worse than another in both.

    Damage curves, and latency as a function of the widths, are measured once. The folder holds
    ``<stem>.<NN>.onnx`` and ``<stem>.<NN>.keep.json`` for each model that nothing dominates, numbered from
    dear to cheap, ``pareto.json`` with all that was measured, and ``pareto.svg``. It is complete, or it is
    not there.

    Args:
        model: a file, or a model in memory (which is not changed).
        options: see :class:`obs_onnx.entrypoints.options.pareto.ParetoOptions`.

    Returns:
        The models and their figures; a frontier without points where nothing was found that costs less.

    Raises:
        ModelError, DataError, OptionError, MissingRuntimeError: bad input; nothing is written.
        VerificationError: a result broke a promise; nothing is written.
    """
    plot, choice = _plotted(options.plot), options.part(ModeOptions)
    targets = ChannelStrategy().checked(target(options.cost, options.least), choice)
    check_files(model, options)
    with opened(options.cluster) as executor:
        return _found(model, options, targets, plot, executor)


def _found(
    model: ModelLike, options: ParetoOptions, targets: Targets, plot: bool, executor: Executor
) -> Pareto:
    recorder, strategy, choice = Recorder(options.shown), ChannelStrategy(), options.part(ModeOptions)
    with boundary(f"{name_of(model)} cannot be opened"), options.shown.stage("open"):
        inputs = load(model, options)
        folder = options.output
        plan = strategy.open(inputs, choice)
        calibrated = calibrate(inputs, plan.model, plan.layers, targets, options)
    by = _choose(options, calibrated)
    calibrated = continued(inputs, calibrated, options, "pareto")
    calibrated = replace(calibrated, work=calibrated.work.by(executor))
    recorder.reached("open")
    expected = tried(
        "nothing is forecast",
        lambda: plan.forecast(calibrated, targets, 1, recorder, options.points),
        UNKNOWN,
    )
    options.shown.say(expected.value.note)

    search = _search(plan, calibrated, by, options, recorder)
    timed = tried(
        "latency was not measured", lambda: _timed(inputs, calibrated, search.found, options, recorder), None
    )
    timing = timed.value
    dense, points, candidates = _ranked(inputs, calibrated, search.found, timing, options.cost, by)
    chosen = [one for one, point in zip(candidates, points, strict=True) if not point.dominated]
    names = _names(inputs.path, len(chosen)) if folder is not None else []
    frontier = Frontier(
        model=inputs.name,
        output=None if folder is None else str(folder),
        cost=options.cost,
        by=by,
        dense=dense,
        points=_filed(points, names),
        seconds=recorder.with_total,
        runtime=inputs.target.spec,
        batch=options.batch,
        seed=options.seed,
        options=asked(options),
        environment=inputs.runtime.environment() if timing is None else timing.environment,
        task=None if calibrated.yardstick.task == AUTO else calibrated.yardstick.task,
        metric=None if calibrated.dense.figure is None else calibrated.dense.metric.name,
        lower_is_better=calibrated.dense.metric.lower_is_better,
        notes=(
            *_notes(calibrated, candidates),
            *_shortfall(search, options, len(chosen)),
            *(() if timing is None else _noise(timing)),
            *(() if plot or folder is None else ("no plot: install obs-onnx[report] for one",)),
        ),
        alerts=(*calibrated.data.alerts, *shared_alerts(candidates)),
        failures=timed.failures,
    )
    if folder is not None:
        models = dict(zip(names, chosen, strict=True))
        frontier = _write(folder, frontier, models, inputs.path, options.custom_domains, plot)
    return Pareto(frontier, tuple(one.result.model for one in chosen))


def _plotted(plot: bool | None) -> bool:
    """Whether the frontier is drawn."""
    if plot is None:
        return importlib.util.find_spec("matplotlib") is not None
    if plot:
        check_matplotlib()
    return plot


def _loss(by: str, attempt: ChannelAttempt) -> float:
    lost = TRADED[by].loss
    value = None if lost is None else lost(attempt)
    return float("inf") if value is None else value


def _choose(options: ParetoOptions, calibrated: Calibrated) -> str:
    """What is traded for the cost."""
    dense = calibrated.dense
    judged = METRIC.name if dense.metric is not ACCURACY else "accuracy"
    preferred = judged if options.eval is not None or options.metric is not None else ERROR.name
    by = preferred if options.by == AUTO else options.by
    if TRADED[by].labels and by != judged:
        raise OptionError(f"quality on labelled data is {dense.metric.name} here: give {named('by', judged)}")
    if TRADED[by].labels and dense.figure is None:
        raise DataError(f"a frontier by {by} needs labelled data: give {named('eval')} with labels")
    if TRADED[by].floats and calibrated.yardstick.measure == CHANGED:
        raise OptionError(
            f"no output of the model is of a float type, so it has no {by}: give {named('eval')} with labels"
        )
    return by


def _search(
    plan: ChannelPlan, calibrated: Calibrated, by: str, options: ParetoOptions, recorder: Recorder
) -> FrontierSearch:
    """The search for models that nothing dominates, done."""
    task = plan.task(calibrated, recorder)
    first = lossless(task)
    task = replace(task, start=first.tensors)
    part = Round.of(task, first.attempt, None)
    search = FrontierSearch(part, options.cost, partial(_loss, by), partial(checked, plan, task))
    if first.attempt is not None:
        search.add(first.attempt)
    with options.shown.stage("models", options.points) as advance:
        search.run(options.least, options.points, int(_MORE * options.points), advance)
    return search


def _timed(
    inputs: Inputs,
    calibrated: Calibrated,
    candidates: Sequence[Candidate],
    options: ParetoOptions,
    recorder: Recorder,
) -> Benchmark | None:
    """The dense model and all candidates timed in turn, where that is wanted and they can be."""
    if not options.latency or any(one.result.copied for one in candidates):
        return None
    with recorder.stage("latency"):
        if inputs.front.runs and inputs.front.caches is None:
            models = [inputs.original, *(one.result.model for one in candidates)]
        else:
            models = [inputs.given, *(inputs.put_back(written_form(one.attempt.model)) for one in candidates)]
        return bench(
            [timable(inputs.target, one) for one in models],
            inputs.target,
            batch=options.batch,
            feed=calibrated.file_timing,
            seconds=options.seconds,
        )


def _ranked(
    inputs: Inputs,
    calibrated: Calibrated,
    found: Sequence[Candidate],
    timing: Benchmark | None,
    cost: str,
    by: str,
) -> tuple[Point, list[Point], list[Candidate]]:
    """The dense model measured, and all candidates, from dear to cheap, with what is dominated marked."""
    dense, measures = measured_points(inputs, calibrated, found, timing)
    order = sorted(range(len(found)), key=lambda i: costs_of(cost, measures[i]), reverse=True)
    every = [dense, *(measures[i] for i in order)]
    less = by == METRIC.name and calibrated.dense.metric.lower_is_better
    kept = undominated([loss_of(one, by, less) for one in every], [costs_of(cost, one) for one in every])
    points = [replace(one, dominated=not good) for one, good in zip(every, kept, strict=True)]
    return dense, points[1:], [found[i] for i in order]


def _filed(points: Sequence[Point], names: Sequence[str]) -> tuple[Point, ...]:
    """Points with the names of the files in which the models that are not dominated lie."""
    left = iter(names)
    return tuple(one if one.dominated else replace(one, file=next(left, None)) for one in points)


def _notes(calibrated: Calibrated, candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """What is true of the data, of all models, and of the times that were predicted."""
    timed = () if calibrated.stopwatch is None else calibrated.stopwatch.notes
    return (*calibrated.data.notes, *shared_notes(candidates), *timed)


def _shortfall(search: FrontierSearch, options: ParetoOptions, chosen: int) -> list[str]:
    """What the frontier lacks; ``chosen`` models are on it."""
    if not search.found:
        return [f"no removal of channels was found that lowers {search.cost}"]
    notes = []
    if (reached := min(map(search.share_of, search.found))) > _NEAR * options.least:
        notes.append(
            f"the least {search.cost} found is {reached:.3f} of the dense model's, "
            f"{options.least:g} was asked for"
        )
    if chosen < options.points:
        notes.append(f"{chosen} models are not dominated by another one, {options.points} were asked for")
    return notes


def _noise(timing: Benchmark) -> list[str]:
    noise = Noise()
    noise.add(timing)
    return [f"when all models were timed in turn: {line}" for line in noise.lines()]


def _names(path: Path | None, count: int) -> list[str]:
    stem = "model" if path is None else path.stem
    return [f"{stem}.{number:02d}.onnx" for number in range(1, count + 1)]


def _write(
    folder: str | os.PathLike[str],
    frontier: Frontier,
    models: Mapping[str, Candidate],
    path: Path | None,
    custom_domains: Sequence[str],
    plot: bool,
) -> Frontier:
    """Fill the folder, whole or not at all; a plot that cannot be drawn is a failure of the frontier."""
    told: dict[str, None] = {}
    with together() as files:
        new = files.new(folder)
        new.mkdir()
        for name, one in models.items():
            save_model(one.result.model, new / name, one.proven.check_file(custom_domains))
            write_json(keep_path(new / name), one.result.keep)
            if one.result.caches:
                caches = sorted(one.proven.cache_names)
                configs, lacking = new_configs(one.result.model, caches, path, new / name, alone=False)
                for file, config in configs.items():
                    write_json(file, config)
                told.update(dict.fromkeys(lacking))
        frontier = replace(frontier, alerts=(*frontier.alerts, *told))
        if plot:
            drawn = tried("no plot", lambda: write_frontier(new / "pareto.svg", frontier), None)
            frontier = replace(frontier, failures=(*frontier.failures, *drawn.failures))
        write_json(new / "pareto.json", frontier)
    return frontier
