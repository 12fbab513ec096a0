"""Groups in order of removal with their curves: damage measured at the outputs, or sums of scores."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.allocation.channels import Quantum
from obs_onnx.allocation.curves import Ranked
from obs_onnx.allocation.refit_correction import SHARES, mended
from obs_onnx.allocation.regularizers import penalties, regularizers
from obs_onnx.calibration.activation_cache import ActivationCache
from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.criteria.ranking import ranking
from obs_onnx.criteria.score_curves import criterion_curves
from obs_onnx.data.sources import Source
from obs_onnx.evaluation.measures.output_damage import Damage
from obs_onnx.evaluation.run_cost import measured
from obs_onnx.latency import LatencyTable
from obs_onnx.passes.channels.branches import Branch
from obs_onnx.passes.channels.coupling import Coupling
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.layers.stages import Plan
from obs_onnx.pruning.channels.task import ChannelTask
from obs_onnx.pruning.effort import REFIT_SAMPLES
from obs_onnx.reconstruction.channel_curves import Reference, group_curves
from obs_onnx.reconstruction.channels import solve_channels
from obs_onnx.runtimes.sessions.partial_run import open_whole
from obs_onnx.work.digest import digest_of

__all__ = ["compared_curves", "measured_curves", "mended_curves", "scored_curves", "statistics_of"]

_LEAST_REMOVED, _MOST_REMOVED = 0.08, 0.92


def statistics_of(
    task: ChannelTask,
    model: ir.Model,
    coupling: Coupling,
    layers: Sequence[Layer],
    stages: Plan,
    fit: Source,
) -> ChannelStatistics:
    """What criteria see of a model; nothing is computed before it is asked for."""
    return ChannelStatistics(
        task.calibrated.dense.runtime,
        model,
        coupling,
        layers,
        stages,
        fit,
        budget=task.calibrated.budget.activations // 2,
        damping=task.options.damping,
        seed=task.calibrated.data.seed,
        task=task.calibrated.yardstick.task,
        executor=task.calibrated.work.executor,
        memory=task.calibrated.budget.memory,
    )


def compared_curves(
    task: ChannelTask,
    evidence: ChannelStatistics,
    stages: Plan,
    test: Source,
    levels: Sequence[float],
    only: Collection[int],
) -> dict[int, Ranked]:
    """Some groups with curves of measured damage, to be compared with those of another form of the model.

    Args:
        task: how channels are chosen, and the model.
        evidence, stages: of the model.
        test: data to measure on.
        levels: shares of the channels removed.
        only: the groups.
    """
    with task.recorder.stage("compare axes", len(only)) as advance:
        return group_curves(
            task.calibrated.dense.runtime,
            evidence,
            stages,
            Reference(test, _answers(task, test), task.calibrated.yardstick),
            rank=ranking(task.options.criterion, evidence),
            levels=levels,
            compensate=True,
            budget=task.calibrated.budget.activations // 4,
            advance=advance,
            normed=task.rotation.normed,
            only=only,
            work=task.calibrated.work.stage("axes", levels),
        )


def measured_curves(
    task: ChannelTask,
    evidence: ChannelStatistics,
    stages: Plan,
    test: Source,
    *,
    damaged: bool,
    branches: Mapping[int, Branch],
    free: Mapping[int, NDArray[np.int64]],
) -> dict[int, Ranked]:
    """Groups with curves of measured damage.

    Args:
        task: how channels are chosen, and the dense model.
        evidence, stages: of the model that is measured.
        test: data for it.
        damaged: it was pruned before.
        branches: groups that may go altogether.
        free: channels that change nothing, by group.
    """
    model, groups = evidence.model, evidence.coupling.groups
    dense, budget = task.calibrated.dense, task.calibrated.budget
    count, samples = budget.effort.bounded(
        len(groups), dense.cost.macs, len(model.graph), test.count or budget.effort.samples, dense.rows
    )
    feeds = test.limit(samples)
    outputs = _answers(task, feeds)
    with task.recorder.stage("measure damage", len(groups)) as advance:
        return group_curves(
            dense.runtime,
            evidence,
            stages,
            Reference(feeds, outputs, task.calibrated.yardstick),
            rank=ranking(task.options.criterion, evidence),
            levels=np.linspace(_LEAST_REMOVED, _MOST_REMOVED, count).tolist(),
            compensate=task.options.compensate,
            budget=budget.activations // 4,
            advance=advance,
            damaged=damaged,
            branches=branches,
            free=free,
            normed={} if damaged else task.rotation.normed,
            work=task.calibrated.work.stage("samples", samples),
        )


def _answers(task: ChannelTask, feeds: Source) -> ActivationCache:
    """What the dense model gives for data."""
    outputs = ActivationCache(task.calibrated.budget.activations // 4)
    for feed in feeds:
        outputs.append(task.calibrated.dense.session.run(feed))
    return outputs


@dataclass(frozen=True)
class _RefitProbe:
    """Damage once all layers behind the removed channels of one group are refitted.

    Attributes:
        task: the dense model, and how it is refitted.
        evidence: of the dense model.
        few: data to refit on.
        feeds, outputs: data to measure on, and what the dense model gives for it.
    """

    task: ChannelTask
    evidence: ChannelStatistics
    few: Source
    feeds: Source
    outputs: ActivationCache

    def __call__(self, group: int, mask: NDArray[np.bool_]) -> float:
        """Damage with the channels of ``mask`` kept."""
        task, dense = self.task, self.task.calibrated.dense
        selection = task.channels.select({group: mask})
        layers = [layer for stage in dense.stages.stages for layer in stage.layers]
        reading = {one.layer.name for one in self.evidence.consumers(task.channels.coupling.groups[group])}
        first = [layer.name in (reading or selection.empty) for layer in layers]
        before = layers[: first.index(True)] if any(first) else []
        small = solve_channels(
            dense.runtime,
            task.channels.coupling,
            dense.stages,
            self.few,
            selection.keep,
            fixed={*task.channels.protected, *(layer.name for layer in before)},
            damping=task.options.damping,
            budget=task.calibrated.budget.activations // 2,
            advance=lambda _: None,
            empty=selection.empty,
        ).model
        session = open_whole(dense.runtime, small)
        found = Damage(task.calibrated.yardstick, dense.stages.outputs)
        for feed, outputs in zip(self.feeds, self.outputs, strict=True):
            found.update(outputs, session.run(feed))
        return found.value


def mended_curves(
    task: ChannelTask,
    ranked: Mapping[int, Ranked],
    evidence: ChannelStatistics,
    fit: Source,
    test: Source,
    branches: Mapping[int, Branch],
) -> dict[int, Ranked]:
    """Curves of the damage that remains when all layers behind the channels are refitted, if affordable.

    Args:
        task: how channels are chosen, and the dense model.
        ranked: groups of the dense model with curves of the damage behind the next layers' refit alone.
        evidence: of the dense model.
        fit, test: data to refit on and to measure the damage on.
        branches: groups that may go altogether.
    """
    dense, effort = task.calibrated.dense, task.calibrated.budget.effort
    layers = [layer for stage in dense.stages.stages for layer in stage.layers]
    probes = len(ranked) * len(SHARES) + len(branches)
    whole = task.options.compensate and task.options.sequential
    moved = sum(dense.cost.sizes.values())
    if not whole or not layers or not effort.refits(probes, dense.cost.macs, moved, layers):
        return dict(ranked)
    feeds = test.limit(effort.samples)
    probe = _RefitProbe(task, evidence, fit.limit(REFIT_SAMPLES), feeds, _answers(task, feeds))
    work = task.calibrated.work.stage("damage behind the refit", dense.model)

    def damage(group: int, mask: NDArray[np.bool_]) -> float:
        return work.one(float, digest_of(group, mask), lambda: probe(group, mask))

    with task.recorder.stage("measure damage behind the refit", len(ranked)) as advance:
        return mended(ranked, damage, branches, advance)


def scored_curves(
    task: ChannelTask,
    evidence: ChannelStatistics,
    quantum: Mapping[int, Quantum],
    table: LatencyTable | None = None,
) -> dict[int, Ranked]:
    """Groups with curves that are sums of a criterion's scores.

    Args:
        task: how channels are chosen; ``allocation`` names the criterion.
        evidence: of the model that is scored.
        quantum: multiples of kept counts, by group.
        table: latency as a function of widths, where that is known.
    """
    options, groups = task.options, evidence.coupling.groups
    off: dict[int, float] = {}
    if options.regularize:
        cost = measured(task.calibrated.dense.runtime, evidence.model, task.calibrated.data.sample)
        latency = None if table is None else table.cost
        costs = regularizers(evidence.coupling, cost.macs, cost.sizes, latency)
        off = penalties(options.regularize, costs, groups, quantum)
    with task.recorder.stage("score channels", len(groups)) as advance:
        return criterion_curves(
            evidence,
            order=options.criterion,
            allocation=options.allocation,
            normalize=task.by_threshold,
            penalties=off,
            advance=advance,
        )
