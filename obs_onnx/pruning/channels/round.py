"""One round of pruning: the groups of the model so far, and the smaller model within limits on costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from obs_onnx.allocation.channels import Allocation, Quantum, allocate_channels
from obs_onnx.allocation.curves import Ranked
from obs_onnx.allocation.thresholds import threshold_channels
from obs_onnx.calibration.layer_problem import Tensors
from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.evaluation.run_cost import measured
from obs_onnx.latency import LatencyTable
from obs_onnx.passes.channels.coupling import Coupling
from obs_onnx.passes.costs.memory import Memory
from obs_onnx.passes.costs.model_costs import Cost, Costs
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.stages import plan_stages
from obs_onnx.pruning.channels.attempt import ChannelAttempt, Keeps
from obs_onnx.pruning.channels.curves import measured_curves, mended_curves, scored_curves
from obs_onnx.pruning.channels.task import ChannelTask, attempt_removal
from obs_onnx.pruning.options import DAMAGE

__all__ = ["Round"]

_MULTIPLES = 8
_CORRECTIONS = 6
_ROOM = 1.04  # of a limit on latency, that is not worth another correction


@dataclass(frozen=True)
class _Tried:
    """Kept counts that were tried: real costs, and their ratios to the limits."""

    allocation: Allocation
    keep: Keeps
    real: Mapping[str, float]
    strains: Mapping[str, float]

    def rank(self) -> tuple[bool, float]:
        """Sorts what holds by its damage, then the others by how far they are off."""
        if all(ratio <= _allowed(name) for name, ratio in self.strains.items()):
            return False, self.allocation.damage
        return True, max(self.strains.values(), default=0.0)


def _allowed(name: str) -> float:
    """Ratio of a cost to its limit; times are only known to within a per cent."""
    return 0.99 if name == "latency" else 1.0


def quanta(coupling: Coupling, wanted: int | None, largest_quantum: int) -> dict[int, int]:
    """What the kept count of each group is a multiple of.

    By default the largest power of two, up to that of the runtime, that leaves a group at least eight counts.
    """
    if wanted is not None:
        return {group.id: wanted for group in coupling.groups}
    return {
        group.id: max(1, min(largest_quantum, 2 ** int(math.log2(max(group.n / _MULTIPLES, 1)))))
        for group in coupling.groups
    }


@dataclass(frozen=True)
class Round:
    """Groups of the model pruned so far, in order of removal and with their curves.

    Attributes:
        task: the dense model, its data, and how channels are chosen.
        coupling: of the model pruned so far.
        kept: indices of the dense model's channels that it still has, by initializer and axis.
        dense_evidence: of the dense model.
        ranked: groups with their curves.
        costs: of the model pruned so far, as functions of kept counts.
        quantum: multiples of kept counts, by group.
        dense_costs: the dense model's, in the units of ``costs``.
        table: latency as a function of kept counts, where it is wanted.
        start: weights of the dense model by now, where they were trained.
    """

    task: ChannelTask
    coupling: Coupling
    kept: Mapping[str, Mapping[str, list[int]]]
    dense_evidence: ChannelStatistics
    ranked: dict[int, Ranked]
    costs: Costs
    quantum: dict[int, Quantum]
    dense_costs: Mapping[str, float]
    table: LatencyTable | None = None
    start: Tensors | None = None

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
        evidence = ChannelStatistics(
            dense.runtime,
            model,
            coupling,
            layers,
            stages,
            fit,
            budget=task.calibrated.budget.memory,
            damping=task.options.damping,
            seed=data.seed,
        )
        table = _latencies(task, coupling)
        if table is None:
            quantum = dict[int, Quantum](quanta(coupling, task.options.round_to, dense.runtime.quantum))
        else:
            quantum = dict(table.counts)
        if damage:
            branches = channels.branches if last and before is None and table is not None else {}
            ranked = measured_curves(task, evidence, stages, test, before is not None, branches)
            if before is None and table is not None:
                ranked = mended_curves(task, ranked, evidence, fit, test, branches)
        else:
            ranked = scored_curves(task, evidence, quantum, table)
        return cls(
            task,
            coupling,
            {} if before is None else channels.coupling.keep_indices(before.keep),
            dense_evidence or evidence,
            ranked,
            Costs(coupling),
            quantum,
            _dense_costs(channels.coupling, before, table),
            table,
            None if before is None or before.training is None else before.tensors,
        )

    @cached_property
    def latency(self) -> Cost:
        """Milliseconds of a run, branches that may be left out included."""
        assert self.table is not None
        return self.table.cost.leaving_out({k: one.dead for k, one in self.task.channels.branches.items()})

    @cached_property
    def memory(self) -> Memory:
        """Of activations, for one sample."""
        calibrated = self.task.calibrated
        cost = measured(calibrated.dense.runtime, self.coupling.model, calibrated.data.sample)
        return Memory(self.coupling, cost.sizes)

    def allocate(self, limits: Mapping[str, float]) -> Allocation:
        """Kept counts under limits as shares of the dense model, and bytes of initializers."""
        costs: dict[str, Cost] = {
            "macs": self.costs.macs,
            "params": self.costs.params,
            "size": self.costs.bytes,
        }
        if self.table is not None:
            costs["latency"] = self.latency
        absolute = [
            (costs[name], limit if name == "size" else limit * self.dense_costs[name])
            for name, limit in limits.items()
            if name != "ram"
        ]
        if "ram" in limits:
            absolute += self.memory.limits(limits["ram"] * self.task.costs.peak)
        share = threshold_channels if self.task.by_threshold else allocate_channels
        return share({group: one.curve for group, one in self.ranked.items()}, absolute, self.quantum)

    def reach(self, limits: Mapping[str, float]) -> ChannelAttempt:
        """The attempt whose real costs stay within the limits, as far as that is possible.

        Predicted costs are exact for nearly all models, but latency is not; where they are not, for what
        removal adds to a graph, and for what a file holds beside its initializers, the limits are tightened
        until the real ones hold, and that on latency is loosened while there is much room.
        """
        tight, tried = dict(limits), list[_Tried]()
        if "size" in tight:
            tight["size"] -= max(self.task.costs.file_bytes - self.dense_costs["size"], 0.0)
        for _ in range(_CORRECTIONS):
            tried.append(self._tried(tight, limits))
            corrected = _corrected(tight, limits, tried)
            if corrected is None:
                break
            tight = corrected
        best = min(tried, key=_Tried.rank)
        if best.real.get("latency", 0.0) > 1:  # slower than the dense model: then rather that one
            best = replace(best, keep={group: np.ones_like(mask) for group, mask in best.keep.items()})
        kept = {group: best.allocation.kept[group] / one.curve.size for group, one in self.ranked.items()}
        expected = {
            group: float(one.curve.damage(np.array([1 - kept[group]]))[0])
            for group, one in self.ranked.items()
        }
        return attempt_removal(self.task, best.keep, expected, self.dense_evidence, self.start)

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


def _dense_costs(
    coupling: Coupling, before: ChannelAttempt | None, table: LatencyTable | None
) -> dict[str, float]:
    """Costs of the dense model; its milliseconds by the table of a model that was pruned ``before``."""
    dense, ratio = Costs(coupling), 1.0 if before is None else before.costs.get("latency", 1.0)
    return {
        "macs": dense.macs.value({}),
        "params": dense.params.value({}),
        "size": dense.bytes.value({}),
        **({} if table is None else {"latency": table.cost.value({}) / ratio}),
    }


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
    over = {name: ratio for name, ratio in last.strains.items() if ratio > _allowed(name)}
    if over and not last.allocation.met:
        return None
    if not over:
        room = _allowed("latency") / last.strains.get("latency", 1.0)
        if room < _ROOM or any(one.allocation.kept == last.allocation.kept for one in tried[:-1]):
            return None
        corrected["latency"] *= math.sqrt(room)
    for name, factor in over.items():
        if name == "size":
            corrected[name] -= last.real[name] - limits[name]
        else:
            corrected[name] /= factor * 1.001 / _allowed(name)
    return corrected
