"""One round of pruning: the groups of the model so far, and the smaller model within limits on costs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from obs_onnx.allocation.aligned import allocate_aligned
from obs_onnx.allocation.channels import Allocation, Quantum, allocate_channels
from obs_onnx.allocation.costs import Predicted, at_most
from obs_onnx.allocation.curves import Ranked
from obs_onnx.allocation.targets import TARGETS, Target
from obs_onnx.allocation.thresholds import threshold_channels
from obs_onnx.calibration.layer_weights import Tensors
from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.evaluation.run_cost import measured
from obs_onnx.latency import LatencyTable
from obs_onnx.passes.channels.coupling import Coupling
from obs_onnx.passes.costs.memory import Memory
from obs_onnx.passes.costs.model_costs import Cost
from obs_onnx.passes.costs.widths import Widths, widths_of
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.stages import plan_stages
from obs_onnx.pruning.channels.attempt import ChannelAttempt, Keeps, Least
from obs_onnx.pruning.channels.curves import measured_curves, mended_curves, scored_curves, statistics_of
from obs_onnx.pruning.channels.lossless import redundant_in
from obs_onnx.pruning.channels.selection import quanta
from obs_onnx.pruning.channels.task import ChannelTask, attempt_removal
from obs_onnx.pruning.options import DAMAGE

__all__ = ["Round"]

_CORRECTIONS = 6
_TOLD_CORRECTIONS = 2 * _CORRECTIONS  # where a tool tells costs, with constant parts of its own
_ROOM = 1.04  # of a limit on an estimated cost, that is not worth another correction


@dataclass(frozen=True)
class _Tried:
    """Kept counts that were tried: real costs, and their ratios to the limits."""

    allocation: Allocation
    keep: Keeps
    real: Mapping[str, float]
    strains: Mapping[str, float]

    def rank(self) -> tuple[bool, float]:
        """Sorts what holds by its damage, then the others by how far they are off."""
        if all(ratio <= TARGETS[name].trusted for name, ratio in self.strains.items()):
            return False, self.allocation.damage
        return True, max(self.strains.values(), default=0.0)


@dataclass(frozen=True)
class Round:
    """Groups of the model pruned so far, in order of removal and with their curves.

    Attributes:
        task: the dense model, its data, and how channels are chosen.
        coupling: of the model pruned so far.
        kept: indices of the dense model's channels that it still has, by initializer and axis.
        dense_evidence: of the dense model.
        ranked: groups with their curves.
        predicted: what the model pruned so far costs, as functions of kept counts.
        quantum: multiples of kept counts, by group.
        widths: what makes the widths of layers the multiples that were asked for.
        dense: the same of the dense model.
        reached: what the model pruned so far costs, measured; nothing for the dense one.
        start: weights of the dense model by now, where they were trained or others added to them.
    """

    task: ChannelTask
    coupling: Coupling
    kept: Mapping[str, Mapping[str, list[int]]]
    dense_evidence: ChannelStatistics
    ranked: dict[int, Ranked]
    predicted: Predicted
    quantum: dict[int, Quantum]
    widths: Widths | None
    dense: Predicted
    reached: Mapping[str, float]
    start: Tensors = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        task: ChannelTask,
        before: ChannelAttempt | None,
        dense_evidence: ChannelStatistics | None,
        last: bool = True,
    ) -> Round:
        """Measure around ``before``, or around the dense model.

        In a ``last`` round that is the first one, branches may be left out where latency is wanted.
        """
        dense, data, channels = task.calibrated.dense, task.calibrated.data, task.channels
        model = dense.model if before is None else before.model
        coupling = channels.coupling if before is None else channels.coupling.of(model)
        layers = dense.layers if before is None else find_layers(model)[0]
        stages = dense.stages if before is None else plan_stages(model, layers)
        damage = task.options.allocation == DAMAGE
        fit, test = data.for_damage() if damage else (data.fit, data.fit)
        evidence = statistics_of(task, model, coupling, layers, stages, fit)
        if dense_evidence is None and before is not None:
            dense_evidence = statistics_of(
                task, dense.model, channels.coupling, dense.layers, dense.stages, fit
            )
        table, wanted = _latencies(task, coupling), task.options.round_to
        widths = None if wanted is None else widths_of(coupling, wanted)
        quantum: dict[int, Quantum]
        if table is not None:
            quantum = dict(table.counts)
        else:
            quantum = dict(quanta(coupling, dense.runtime.quantum) if widths is None else widths.steps)
        if damage:
            branches = channels.branches if last and before is None and table is not None else {}
            free = redundant_in(dense.runtime, coupling, layers, data.first).channels if task.start else {}
            ranked = measured_curves(
                task, evidence, stages, test, damaged=before is not None, branches=branches, free=free
            )
            if before is None and table is not None:
                ranked = mended_curves(task, ranked, evidence, fit, test, branches)
        else:
            ranked = scored_curves(task, evidence, quantum, table)
        latency = None
        if table is not None:  # with branches that may be left out
            latency = table.cost.leaving_out({k: one.dead for k, one in channels.branches.items()})
        predicted = whole = Predicted(channels.coupling, dense.cost.sizes, latency)
        if before is not None:
            predicted = Predicted(coupling, measured(dense.runtime, model, data.sample).sizes, latency)
        return cls(
            task,
            coupling,
            {} if before is None else channels.coupling.keep_indices(before.keep),
            dense_evidence or evidence,
            ranked,
            predicted,
            quantum,
            widths,
            whole,
            {} if before is None else before.costs,
            task.start if before is None or before.training is None else before.tensors,
        )

    def whole(self, target: Target) -> float:
        """What the dense model costs, as predictions have it.

        What is timed is predicted for the model pruned so far, whose ratio to the dense one is known.
        """
        predict = target.model_cost.predict
        if target.timed:
            return predict(self.predicted).value({}) / self.reached.get(target.name, 1.0)
        return predict(self.dense).value({})

    def allocate(self, limits: Mapping[str, float]) -> Allocation:
        """Kept counts under limits, reckoned as by :class:`~obs_onnx.pruning.channels.costs.DenseCosts`."""
        sums, peaks = list[tuple[Cost, float]](), list[tuple[Cost, float]]()
        for name, limit in limits.items():
            target = TARGETS[name]
            cost = target.model_cost.predict(self.predicted)
            most = limit if target.additive else limit * self.whole(target)
            (peaks if isinstance(cost, Memory) else sums).extend(at_most(cost, most))
        share = threshold_channels if self.task.by_threshold else allocate_channels
        curves = {group: one.curve for group, one in self.ranked.items()}
        return allocate_aligned(share, curves, [*sums, *peaks], self.quantum, self.widths)

    def reach(self, limits: Mapping[str, float], chosen: Mapping[str, float] | None = None) -> ChannelAttempt:
        """The attempt whose real costs stay within the limits, as far as that is possible.

        Predicted costs are exact for nearly all models, but estimated ones such as latency are not; where
        they are not, for what removal adds to a graph, and for what a file holds beside its initializers, the
        limits are tightened until the real ones hold, and those on estimated costs are loosened while there
        is much room. Damping by layer is ``chosen`` where an attempt before has chosen it.
        """
        tight = {name: self.task.costs.in_front(TARGETS[name], limit) for name, limit in limits.items()}
        tried = list[_Tried]()
        for target in map(TARGETS.__getitem__, limits):
            if target.additive:
                tight[target.name] -= max(self.task.costs.whole(target) - self.whole(target), 0.0)
        for _ in range(_CORRECTIONS if self.task.costs.tool is None else _TOLD_CORRECTIONS):
            tried.append(self._tried(tight, limits))
            corrected = _corrected(tight, limits, tried)
            if corrected is None:
                break
            tight = corrected
        best = min(tried, key=_Tried.rank)
        slower = any(TARGETS[name].timed and ratio > 1 for name, ratio in best.real.items())
        if slower and all(TARGETS[name].timed for name in limits):  # than the dense model: then rather that
            best = replace(best, keep={group: np.ones_like(mask) for group, mask in best.keep.items()})
        kept = {group: best.allocation.kept[group] / one.curve.size for group, one in self.ranked.items()}
        expected = {
            group: float(one.curve.damage(np.array([1 - kept[group]]))[0])
            for group, one in self.ranked.items()
        }
        found = attempt_removal(self.task, best.keep, expected, self.dense_evidence, self.start, chosen)
        return replace(found, curves={group: one.curve for group, one in self.ranked.items()})

    def least(self, names: Collection[str]) -> dict[str, Least]:
        """The least that costs can be, if nothing else counts; nothing for what has to be timed."""
        names = [name for name in names if not TARGETS[name].timed]
        if not names:
            return {}
        real = self._tried(dict.fromkeys(names, 0.0), {}).real
        ones = {group.id: 1 for group in self.coupling.groups}
        costs = {name: TARGETS[name].model_cost.predict(self.predicted).value(ones) for name in names}
        wholes = {name: 1.0 if TARGETS[name].additive else self.whole(TARGETS[name]) for name in names}
        return {name: Least(real[name], costs[name] / (wholes[name] or 1.0)) for name in names}

    def _tried(self, tight: Mapping[str, float], limits: Mapping[str, float]) -> _Tried:
        """Kept counts under ``tight`` limits, and what they really cost."""
        allocation = self.allocate(tight)
        keep = {group: one.keep(allocation.kept[group]) for group, one in self.ranked.items()}
        whole = self._in_dense_terms(keep)
        real = self.task.costs.of(self.task.channels.smaller(whole))
        return _Tried(allocation, whole, real, {name: real[name] / limits[name] for name in limits})

    def _in_dense_terms(self, keep: Keeps) -> Keeps:
        """Channels of the dense model that stay when ``keep`` is applied on top of the rounds before."""
        if not self.kept:
            return keep
        dense = self.task.channels.coupling
        here = self.coupling.keep_indices(keep)
        together: dict[str, dict[str, list[int]]] = {}
        for name in {*self.kept, *here}:
            if name not in dense.model.graph.initializers:
                continue
            axes = {}
            for axis in {*self.kept.get(name, {}), *here.get(name, {})}:
                size = int(dense.model.graph.initializers[name].shape[int(axis)])  # type: ignore[index, arg-type]
                before = np.array(self.kept.get(name, {}).get(axis, range(size)))
                axes[axis] = before[here.get(name, {}).get(axis, range(len(before)))].tolist()
            together[name] = axes
        return dense.keep_from(together)


def _latencies(task: ChannelTask, coupling: Coupling) -> LatencyTable | None:
    """Latency as a function of widths, where it is wanted."""
    if task.calibrated.stopwatch is None:
        return None
    with task.recorder.stage("measure latency") as advance:
        return task.calibrated.stopwatch.table(coupling, advance)


def _corrected(
    tight: Mapping[str, float], limits: Mapping[str, float], tried: Sequence[_Tried]
) -> dict[str, float] | None:
    """Other limits to allocate under after what was tried; None where they would lead nowhere.

    Args:
        tight: those of the last trial.
        limits: that the real costs have to keep.
        tried: so far.
    """
    last, corrected = tried[-1], dict(tight)
    over = {name: ratio for name, ratio in last.strains.items() if ratio > TARGETS[name].trusted}
    if over and not last.allocation.met:
        return None
    if not over:
        rooms = {name: TARGETS[name].trusted / strain for name, strain in last.strains.items()}
        wide = {name: room for name, room in rooms.items() if TARGETS[name].estimated and room >= _ROOM}
        if not wide or any(one.allocation.kept == last.allocation.kept for one in tried[:-1]):
            return None
        for name, room in wide.items():
            corrected[name] *= math.sqrt(room)
    for name, factor in over.items():
        if TARGETS[name].additive:
            corrected[name] -= last.real[name] - limits[name]
        else:
            corrected[name] /= factor * 1.001 / TARGETS[name].trusted
    return corrected
