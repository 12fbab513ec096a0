"""The latency of a model as a function of its widths, from small graphs that are timed where it will run.

1. Which steps of channels a runtime rewards is discovered for each kind of block (:mod:`.quantum`).
2. Models at the widths of an orthogonal array are cut into blocks, and each distinct block is timed once
   (:mod:`.design`, :mod:`.blocks`).
3. Some of these models are timed as a whole, in turn with the dense one. Blocks that are timed alone pay for
   bringing data in and out, and miss what a runtime does across them; a factor for each kind of block and a
   constant are fitted to the whole models (non-negative least squares of the relative errors, pulled towards
   equal factors).

The error that is reported is that of each whole model under a fit without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import nnls

from obs_onnx.allocation.channels import admissible
from obs_onnx.latency.benchmark import bench
from obs_onnx.latency.blocks import MOST_TIMINGS, BlockClock, groups_of_blocks, narrowed
from obs_onnx.latency.cache import LatencyCache
from obs_onnx.latency.cost import ITERATIONS, BlockLatency, LatencyCost, Traffic, block_latency
from obs_onnx.latency.experiment_design import plans
from obs_onnx.latency.noise import Noise
from obs_onnx.latency.width_quantum import group_counts, group_quanta, kind_quanta
from obs_onnx.passes.channels.coupling import Coupling
from obs_onnx.passes.costs.blocks import cut_blocks
from obs_onnx.passes.costs.model_costs import Cost, Costs
from obs_onnx.runtimes import Runtime
from obs_onnx.runtimes.sessions.partial_run import Values
from obs_onnx.work.work_folder import NOWHERE, Work

__all__ = ["LatencyTable", "Whole", "fit_cost", "measure_table"]

LEVELS = 7
WHOLES = 17
_SECONDS = 0.25
_PULL = 0.3
_DOUBT = 1.08  # blocks that took so much longer than wider ones are timed again
_TRUST = 3.0  # weight of the dense model, with which every other one is compared
_THRESHOLDS = (0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of what the dense model stores


@dataclass(frozen=True)
class Whole:
    """A whole model that was timed.

    Attributes:
        counts: channels that it keeps.
        ratio: of its latency to the dense model's.
    """

    counts: Mapping[int, int]
    ratio: float


@dataclass(frozen=True)
class LatencyTable:
    """What was measured.

    Attributes:
        cost: milliseconds as a function of kept counts.
        dense_ms: of the dense model.
        quanta: steps in which the kept count of each group pays.
        counts: that each group may keep, rising.
        kinds: quantum of each kind of block, None where it could not be told.
        error: median relative error of whole models that the fit did not see.
        timed, asked: blocks that were timed, and that were needed (the others were known).
        wholes: models that were timed as a whole.
        noise: how many of the whole models' times were disturbed.
        left_out: blocks that could not be timed alone, and why; the fit puts their time into the constant.
    """

    cost: LatencyCost
    dense_ms: float
    quanta: Mapping[int, int]
    counts: Mapping[int, tuple[int, ...]]
    kinds: Mapping[str, int | None]
    error: float
    timed: int
    asked: int
    wholes: tuple[Whole, ...]
    noise: Noise = field(default_factory=Noise)
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Timed:
    """What was timed for a table.

    Attributes:
        kinds: quantum of each kind of block.
        quanta, counts: steps of the kept count of each group, and the counts.
        rows: counts of the models that were measured.
        times: of the blocks of each row.
        wholes: models that were timed as a whole.
        dense_ms: of the dense model, in turn with these.
        noise: how many of the whole models' times were disturbed.
        timed, asked, left_out: see :class:`LatencyTable`.
    """

    kinds: dict[str, int | None]
    quanta: dict[int, int]
    counts: dict[int, tuple[int, ...]]
    rows: list[dict[int, int]]
    times: list[dict[str, float]]
    wholes: list[Whole]
    dense_ms: list[float]
    noise: Noise
    timed: int
    asked: int
    left_out: dict[str, str]


def measure_table(
    coupling: Coupling,
    target: Runtime,
    local: Runtime,
    sample: Values,
    *,
    round_to: int | None = None,
    levels: int = LEVELS,
    cache: LatencyCache | None = None,
    advance: Callable[[int], None] = lambda _: None,
    work: Work = NOWHERE,
) -> LatencyTable:
    """Measure the latency of a model at many widths.

    Args:
        coupling: of the model.
        target: where it will run.
        local: where it runs to find what goes into each block.
        sample: one complete feed, of the batch that latency is wanted for.
        round_to: multiple of kept counts; discovered by default.
        levels: widths of each group that are measured, a prime.
        cache: of earlier times; by default that of ``target`` and this machine.
        advance: called with 1 after each of the models that are measured.
        work: where the times are kept once all are known; those of single blocks are in ``cache`` at once.

    Raises:
        ModelError: a whole model cannot be loaded or run.
    """
    if cache is None:
        cache = LatencyCache({"cpu": target.machine()["cpu"], **target.environment()})
    clock = BlockClock(target, local, sample, cache)
    kept = work.stage("latency table", coupling.model, sample, round_to, levels)
    found = kept.one(_Timed, "times", lambda: _timed(clock, coupling, round_to, levels, advance))
    middle = float(np.median(found.dense_ms))
    blocks, weights = _blocks(coupling, found.rows, found.times), Costs(coupling).bytes
    wholes = found.wholes
    cost = fit_cost(blocks, wholes, middle, weights)
    errors = [
        abs(
            fit_cost(blocks, [*wholes[:i], *wholes[i + 1 :]], middle, weights).value(one.counts)
            / (middle * one.ratio)
            - 1
        )
        for i, one in enumerate(wholes[:-1])
    ]
    return LatencyTable(
        cost,
        middle,
        found.quanta,
        found.counts,
        found.kinds,
        float(np.median(errors)) if errors else 0.0,
        found.timed,
        found.asked,
        tuple(wholes),
        found.noise,
        found.left_out,
    )


def _timed(
    clock: BlockClock,
    coupling: Coupling,
    round_to: int | None,
    levels: int,
    advance: Callable[[int], None],
) -> _Timed:
    """Times of models at many widths; those of blocks stay in the cache whatever happens."""
    try:
        kinds = {} if round_to is not None else kind_quanta(clock, coupling, advance)
        quanta = group_quanta(coupling, kinds, clock.target.quantum, round_to)
        if round_to is None:
            counts = group_counts(coupling, quanta)
        else:
            counts = {one.id: tuple(admissible(one.n, quanta[one.id]).tolist()) for one in coupling.groups}
        meeting = groups_of_blocks(coupling).values()
        rows = plans({group: np.array(own) for group, own in counts.items()}, meeting, levels)
        times, wholes, dense_ms, noise = _timed_rows(clock, coupling, rows, advance)
    finally:
        clock.cache.save()
    return _Timed(
        dict(kinds),
        dict(quanta),
        dict(counts),
        [dict(row) for row in rows],
        times,
        wholes,
        dense_ms,
        noise,
        clock.timed,
        clock.asked,
        dict(clock.left_out),
    )


def _timed_rows(
    clock: BlockClock, coupling: Coupling, rows: Sequence[Mapping[int, int]], advance: Callable[[int], None]
) -> tuple[list[dict[str, float]], list[Whole], list[float], Noise]:
    """Times of the blocks of each row, some whole models, and the dense one's times in turn with these."""
    meeting = groups_of_blocks(coupling)
    whole = set(np.linspace(0, len(rows) - 1, min(WHOLES, len(rows))).round().astype(int).tolist())
    dense, noise = clock.open(coupling.model), Noise()
    signatures: list[dict[str, str]] = []
    wholes: list[Whole] = []
    dense_ms: list[float] = []
    for number, row in enumerate(rows):
        model = narrowed(coupling, row)
        signatures.append(clock.signatures(model))
        if number in whole:
            pair = [dense, clock.open(model)]
            found = bench(pair, clock.target, feed=clock.sample, seconds=_SECONDS, min_runs=5)
            wholes.append(Whole(row, found.ratios[1].value))
            dense_ms.append(found.latencies[0].median)
            noise.add(found)
        clock.cache.save()
        advance(1)

    def times() -> list[dict[str, float]]:
        return [
            {name: clock.milliseconds(key) for name, key in own.items() if name not in clock.left_out}
            for own in signatures
        ]

    for _ in range(MOST_TIMINGS - 1):
        for number, names in sorted(doubtful(rows, times(), meeting).items()):
            if names := {n for n in names if clock.cache.timings(signatures[number][n]) < MOST_TIMINGS}:
                clock.signatures(narrowed(coupling, rows[number]), names, again=True)
    return times(), wholes, dense_ms, noise


def _blocks(
    coupling: Coupling, rows: Sequence[Mapping[int, int]], times: Sequence[Mapping[str, float]]
) -> list[BlockLatency]:
    """What the times of the blocks at the widths of all rows say about other widths."""
    full, meeting, blocks = {group.id: group.n for group in coupling.groups}, groups_of_blocks(coupling), []
    for block in cut_blocks(coupling.model):
        points = [number for number, found in enumerate(times) if block.name in found]
        if not points or block.name not in times[-1]:
            continue
        groups = meeting[block.name]
        counts = np.array([[rows[number][group] for group in groups] for number in points], np.int64)
        milliseconds = np.array([times[number][block.name] for number in points])
        dense, table = tuple(full[group] for group in groups), counts.reshape(len(points), -1)
        blocks.append(block_latency(block.name, block.kind, groups, dense, table, milliseconds))
    return blocks


def doubtful(
    rows: Sequence[Mapping[int, int]],
    times: Sequence[Mapping[str, float]],
    meeting: Mapping[str, tuple[int, ...]],
) -> dict[int, set[str]]:
    """Blocks by the number of their row that took longer than the same block with at least as many channels.

    That happens, as runtimes like some widths better; but it is also what a disturbance looks like.
    """
    found: dict[int, set[str]] = {}
    for name, groups in meeting.items():
        points = [number for number, own in enumerate(times) if name in own]
        if not points or not groups:
            continue
        counts = np.array([[rows[number][group] for group in groups] for number in points])
        taken = np.array([times[number][name] for number in points])
        wider = (counts[None, :, :] >= counts[:, None, :]).all(-1) & (taken[:, None] > _DOUBT * taken)
        for place in np.flatnonzero(wider.any(1)):
            found.setdefault(points[place], set()).add(name)
    return found


def fit_cost(
    blocks: Sequence[BlockLatency], wholes: Sequence[Whole], dense_ms: float, weights: Cost
) -> LatencyCost:
    """Factors of the kinds of blocks, and the traffic of weights, from whole models.

    Args:
        blocks: measured alone.
        wholes: models measured as a whole; the last one is the dense model.
        dense_ms: of the dense model.
        weights: bytes of all initializers.
    """
    kinds = sorted({block.kind for block in blocks})
    number = {kind: i for i, kind in enumerate(kinds)}
    stored = np.array([weights.value(one.counts) for one in wholes])
    thresholds = stored[-1] * np.array(_THRESHOLDS)
    alone = np.zeros((len(wholes), len(kinds)))
    for i, one in enumerate(wholes):
        for block in blocks:
            alone[i, number[block.kind]] += block.at(one.counts)
    waits = np.maximum(stored[:, None] - thresholds, 0) / stored[-1]
    columns = np.concatenate([alone / dense_ms, np.full((len(wholes), 1), 0.1), waits], axis=1)
    ratios = np.array([one.ratio for one in wholes])
    trust = np.ones(len(wholes))
    trust[-1] = _TRUST
    common = float(np.median(ratios / np.maximum(alone.sum(1) / dense_ms, 1e-9)))
    share = alone[-1] / max(alone[-1].sum(), 1e-9)
    pull = np.zeros((len(kinds), columns.shape[1]))
    np.fill_diagonal(pull, np.sqrt(_PULL * len(wholes)) * share)
    found, _ = nnls(
        np.concatenate([columns * (trust / ratios)[:, None], pull]),
        np.concatenate([trust, min(common, 1.0) * pull.sum(1)]),
        maxiter=ITERATIONS * columns.shape[1],
    )
    factors, constant, rates = found[: len(kinds)], found[len(kinds)], found[len(kinds) + 1 :]
    return LatencyCost(
        blocks,
        dict(zip(kinds, factors.tolist(), strict=True)),
        float(0.1 * constant * dense_ms),
        Traffic(weights, thresholds, rates * dense_ms / stored[-1]),
    )
