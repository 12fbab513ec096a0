"""pareto(): the frontier of smaller models from one calibration.

open -> find channels -> calibration data -> measure damage and latency, once -> for each limit: allocate,
remove, refit -> verify all -> time all in turn -> keep what nothing dominates -> write
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from obs_onnx.entrypoints.keywords import takes
from obs_onnx.entrypoints.pareto_options import ParetoOptions
from obs_onnx.evaluation.output_damage import choose_measure
from obs_onnx.io.json_file import write_json
from obs_onnx.io.onnx_file import ModelLike, open_model, save_model, serialize
from obs_onnx.io.paths import keep_path, new_folder
from obs_onnx.latency.benchmark import bench
from obs_onnx.latency.noise import Noise
from obs_onnx.option import asked
from obs_onnx.passes.errors import DataError, OptionError, named
from obs_onnx.pruning.channels.attempt import ChannelAttempt
from obs_onnx.pruning.channels.mode import ChannelsMode
from obs_onnx.pruning.channels.round import Round
from obs_onnx.pruning.frontier_points import (
    Candidate,
    checked,
    costs_of,
    loss_of,
    measured_points,
    shared_notes,
)
from obs_onnx.pruning.frontier_search import FrontierSearch, target
from obs_onnx.pruning.inputs import PruningInputs, prepare
from obs_onnx.pruning.options import ModeOptions
from obs_onnx.report.frontier_plot import check_matplotlib, write_frontier
from obs_onnx.results.benchmark import Benchmark
from obs_onnx.results.frontier import Frontier, undominated

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


@takes(ParetoOptions)
def pareto(model: ModelLike, options: ParetoOptions) -> Pareto:
    """Trade a cost for quality: several smaller models, of which no one is worse than another in both.

    Damage curves, and latency as a function of the widths, are measured once. The folder holds
    ``<stem>.<NN>.onnx`` and ``<stem>.<NN>.keep.json`` for each model that nothing dominates, numbered from
    dear to cheap, ``pareto.json`` with all that was measured, and ``pareto.svg``. It is complete, or it is
    not there.

    Args:
        model: a file, or a model in memory (which is not changed).
        options: see :class:`obs_onnx.entrypoints.pareto_options.ParetoOptions`.

    Returns:
        The models and their figures; a frontier without points where nothing was found that costs less.

    Raises:
        ModelError, DataError, OptionError, MissingRuntimeError: bad input; nothing is written.
        VerificationError: a result broke a promise; nothing is written.
    """
    start = time.perf_counter()
    cost, least, points = options.cost, options.least, options.points
    plot, progress = options.plot, options.progress
    if plot is None:
        plot = importlib.util.find_spec("matplotlib") is not None
    elif plot:
        check_matplotlib()
    wanted = target(cost, least)
    way = ChannelsMode(wanted, options.part(ModeOptions))
    found = original, name, path = open_model(model, options.custom_domains)
    shown = _shown(options.output_folder, path)
    folder = None if shown is None else new_folder(shown)
    given = prepare(way, found, wanted, options)
    by = _choose(options.by, given, options.evaluation is not None)
    study = given.study(options)
    study.seconds["open"] = time.perf_counter() - start
    if note := way.cost_note(study):
        progress.say(note)

    candidates: list[Candidate] = []

    def settle(attempt: ChannelAttempt) -> ChannelAttempt:
        candidates.append(checked(given, study, attempt))
        return candidates[-1].attempt

    search = FrontierSearch(Round.of(study, None, None), cost, lambda one: _loss(one, by), settle)
    with progress.stage("models", points) as advance:
        search.run(least, points, int(_MORE * points), advance)
    timing = None
    if options.latency and not any(one.finished.copied for one in candidates):
        with study.stage("latency"):
            models = [serialize(one) for one in (original, *(c.finished.model for c in candidates))]
            feed = given.timing_feed(options.batch)
            timing = bench(models, given.target, feed=dict(feed), seconds=options.seconds)
    dense, measures = measured_points(given, candidates, timing)
    order = sorted(range(len(candidates)), key=lambda i: costs_of(cost, measures[i]), reverse=True)
    candidates, measures = [candidates[i] for i in order], [measures[i] for i in order]
    every = [dense, *measures]
    kept = undominated([loss_of(one, by) for one in every], [costs_of(cost, one) for one in every])[1:]
    measures = [replace(one, dominated=not good) for one, good in zip(measures, kept, strict=True)]
    chosen = [one for one, good in zip(candidates, kept, strict=True) if good]
    names = _names(path, len(chosen)) if folder is not None else []
    named = iter(names)
    frontier = Frontier(
        model=name,
        output=None if folder is None else str(shown),
        cost=cost,
        by=by,
        dense=dense,
        points=tuple(one if one.dominated else replace(one, file=next(named, None)) for one in measures),
        seconds=study.seconds,
        runtime=given.target.spec,
        batch=options.batch,
        seed=options.seed,
        options=asked(options),
        environment=given.where.environment() if timing is None else timing.environment,
        notes=(
            *given.source.notes,
            *shared_notes(candidates),
            *(() if study.stopwatch is None else study.stopwatch.notes),
            *_shortfall(search, least, points, chosen),
            *(() if timing is None else _noise(timing)),
            *(() if plot or folder is None else ("no plot: install obs-onnx[report] for one",)),
        ),
    )
    study.seconds["total"] = time.perf_counter() - start
    if folder is not None:
        _write(folder, given, frontier, list(zip(names, chosen, strict=True)), options.custom_domains, plot)
    return Pareto(frontier, tuple(one.finished.model for one in chosen))


def _shown(output: str | os.PathLike[str] | None, path: Path | None) -> str | os.PathLike[str] | None:
    return path.with_name(f"{path.stem}.pareto") if output is None and path is not None else output


def _loss(attempt: ChannelAttempt, by: str) -> float:
    value = attempt.drop if by == "accuracy" else attempt.quality.output_error
    return float("inf") if value is None else value


def _choose(by: str, given: PruningInputs, evaluation: bool) -> str:
    """What is traded for the cost."""
    if by == "auto":
        by = "accuracy" if evaluation else "error"
    if by == "accuracy" and given.accuracy is None:
        raise DataError(f"a frontier by accuracy needs labelled data: give {named('evaluation')} with labels")
    if by == "error" and choose_measure("error", given.answer) != "error":
        raise OptionError(
            "no output of the model is of a float type, so it has no error: "
            f"give {named('evaluation')} with labels"
        )
    return by


def _shortfall(search: FrontierSearch, least: float, points: int, chosen: Sequence[Candidate]) -> list[str]:
    """What the frontier lacks."""
    if not search.found:
        return [f"no removal of channels was found that lowers {search.cost}"]
    notes = []
    if (reached := min(map(search.share, search.found))) > _NEAR * least:
        notes.append(
            f"the least {search.cost} found is {reached:.3f} of the dense model's, {least:g} was asked for"
        )
    if len(chosen) < points:
        notes.append(f"{len(chosen)} models are not dominated by another one, {points} were asked for")
    return notes


def _noise(timing: Benchmark) -> list[str]:
    noise = Noise()
    noise.add(timing)
    return [f"when all models were timed in turn: {line}" for line in noise.lines()]


def _names(path: Path | None, count: int) -> list[str]:
    stem = "model" if path is None else path.stem
    return [f"{stem}.{number:02d}.onnx" for number in range(1, count + 1)]


def _write(
    folder: Path,
    given: PruningInputs,
    frontier: Frontier,
    models: Sequence[tuple[str, Candidate]],
    custom_domains: Sequence[str],
    plot: bool,
) -> None:
    """Fill a folder beside the wanted one, and rename it."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            new = Path(scratch, "new")
            new.mkdir()
            for name, one in models:
                save_model(one.finished.model, new / name, given.check_file(one.expected, custom_domains))
                write_json(keep_path(new / name), one.finished.keep)
            if plot:
                write_frontier(new / "pareto.svg", frontier)
            write_json(new / "pareto.json", frontier)
            os.replace(new, folder)
    except OSError as error:
        raise OptionError(f"cannot write {folder}: {error.strerror or error}") from error
