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
from typing import Any

import onnx
import onnx_ir as ir

from obs_onnx.allocation.targets import COSTS
from obs_onnx.evaluation.output_damage import choose_measure
from obs_onnx.io.json_file import write_json
from obs_onnx.io.onnx_file import open_model, save_model, serialize
from obs_onnx.io.paths import keep_path, new_folder
from obs_onnx.latency.benchmark import bench
from obs_onnx.latency.noise import Noise
from obs_onnx.passes.errors import DataError, OptionError
from obs_onnx.progress import Progress, quiet
from obs_onnx.pruning.channels.attempt import ChannelAttempt
from obs_onnx.pruning.channels.mode import ChannelsMode
from obs_onnx.pruning.channels.round import Round
from obs_onnx.pruning.effort import EFFORTS
from obs_onnx.pruning.frontier_points import (
    Candidate,
    checked,
    costs_of,
    loss_of,
    measured_points,
    shared_notes,
)
from obs_onnx.pruning.frontier_search import FrontierSearch, target
from obs_onnx.pruning.inputs import PruningInputs, check_memory, prepare
from obs_onnx.pruning.mode import Options
from obs_onnx.report.frontier_plot import check_matplotlib, write_frontier
from obs_onnx.results.benchmark import Benchmark
from obs_onnx.results.frontier import Frontier, undominated

__all__ = ["Pareto", "pareto"]

POINTS, MOST_POINTS = 12, 99
LEAST = 0.2
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


def pareto(
    model: str | os.PathLike[str] | ir.Model | onnx.ModelProto,
    output_folder: str | os.PathLike[str] | None = None,
    *,
    calib: Any = None,
    labels: str | None = None,
    evaluation: Any = None,
    points: int = POINTS,
    cost: str = "latency",
    least: float = LEAST,
    by: str = "auto",
    criterion: str = "auto",
    allocation: str = "damage",
    compensate: bool = True,
    sequential: bool = True,
    damping: float = 1e-2,
    protect: Sequence[str] = (),
    round_to: int | None = None,
    effort: str = "normal",
    loss: str = "auto",
    runtime: str = "onnxruntime",
    threads: int | None = None,
    batch: int = 1,
    memory: int | None = None,
    custom_ops: Sequence[str] = (),
    custom_domains: Sequence[str] = (),
    seed: int = 0,
    latency: bool = True,
    seconds: float = 1.0,
    plot: bool | None = None,
    progress: Progress = quiet,
) -> Pareto:
    """Trade a cost for quality: several smaller models, of which no one is worse than another in both.

    Damage curves, and latency as a function of the widths, are measured once. The folder holds
    ``<stem>.<NN>.onnx`` and ``<stem>.<NN>.keep.json`` for each model that nothing dominates, numbered from
    dear to cheap, ``pareto.json`` with all that was measured, and ``pareto.svg``. It is complete, or it is
    not there.

    Args:
        model: a file, or a model in memory (which is not changed).
        output_folder: to make; by default ``<stem>.pareto`` beside a model given as a file, nothing is
            written for a model in memory.
        points: models wanted. Limits on the cost are spaced in equal ratios; half as many more are tried
            where the frontier has gaps.
        cost: latency, macs, params, size or ram.
        least: share of the dense model's cost at which the frontier ends.
        by: what is traded for the cost: ``error`` (relative, of the outputs, on held-out calibration data),
            ``accuracy`` on labelled data, or ``auto``: accuracy if there is ``evaluation``.
        latency: time the models, whatever the cost.
        seconds: that each model is timed in the end, in turn with all others and the dense one.
        plot: draw the frontier; None: if matplotlib is there.
        calib, labels, evaluation, criterion, allocation, compensate, sequential, damping, protect, round_to,
            effort, loss, runtime, threads, batch, memory, custom_ops, custom_domains, seed, progress: see
            :func:`obs_onnx.entrypoints.prune.prune`.

    Returns:
        The models and their figures; a frontier without points where nothing was found that costs less.

    Raises:
        ModelError, DataError, OptionError, MissingRuntimeError: bad input; nothing is written.
        VerificationError: a result broke a promise; nothing is written.
    """
    start = time.perf_counter()
    _check_options(points, cost, least, by, effort, seconds, seed, latency)
    check_memory(memory)
    if plot is None:
        plot = importlib.util.find_spec("matplotlib") is not None
    elif plot:
        check_matplotlib()
    options = Options(
        pattern=None,
        criterion=criterion,
        compensate=compensate,
        sequential=sequential,
        correct=None,
        damping=damping,
        protect=protect,
        layer_sparsity={},
        round_to=round_to,
        seed=seed,
        allocation=allocation,
    )
    wanted = target(cost, least)
    way = ChannelsMode(wanted, options)
    found = original, name, path = open_model(model, custom_domains)
    shown = _shown(output_folder, path)
    folder = None if shown is None else new_folder(shown)
    given = prepare(
        way,
        found,
        wanted,
        calib=calib,
        labels=labels,
        evaluation=evaluation,
        runtime=runtime,
        threads=threads,
        custom_ops=custom_ops,
        seed=seed,
    )
    by = _choose(by, given, evaluation is not None)
    study = given.study(
        effort=effort, loss=loss, batch=batch, round_to=round_to, memory=memory, progress=progress
    )
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
    if latency and not any(one.finished.copied for one in candidates):
        with study.stage("latency"):
            models = [serialize(one) for one in (original, *(c.finished.model for c in candidates))]
            feed = given.timing_feed(batch)
            timing = bench(models, given.target, feed=dict(feed), seconds=seconds)
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
        batch=batch,
        seed=seed,
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
        _write(folder, given, frontier, list(zip(names, chosen, strict=True)), custom_domains, plot)
    return Pareto(frontier, tuple(one.finished.model for one in chosen))


def _check_options(
    points: int, cost: str, least: float, by: str, effort: str, seconds: float, seed: int, latency: bool
) -> None:
    if not 1 <= points <= MOST_POINTS:
        raise OptionError(f"{points} points: use 1 to {MOST_POINTS}")
    if cost not in COSTS:
        raise OptionError(f"cost {cost!r} is unknown: use one of {', '.join(COSTS)}")
    if not 0 < least < 1:
        raise OptionError(f"--least {least:g}: give a share of the dense model's {cost} between 0 and 1")
    if by not in ("auto", "error", "accuracy"):
        raise OptionError(f"--by {by!r} is unknown: use auto, error or accuracy")
    if effort not in EFFORTS:
        raise OptionError(f"effort {effort!r} is unknown: use one of {', '.join(EFFORTS)}")
    if not 0 < seconds < float("inf"):
        raise OptionError(f"--seconds {seconds:g}: give more than 0")
    if seed < 0:
        raise OptionError(f"seed {seed} is negative: use 0 or more")
    if cost == "latency" and not latency:
        raise OptionError("cost latency has to be timed: give another cost")


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
        raise DataError("a frontier by accuracy needs labelled data: give --eval with labels")
    if by == "error" and choose_measure("error", given.answer) != "error":
        raise OptionError(
            "no output of the model is of a float type, so it has no error: give --eval with labels"
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
