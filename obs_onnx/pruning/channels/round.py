"""One round of pruning: the groups of the model so far, and the smaller model within limits on costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
from obs_onnx.pruning.channels.attempt import ChannelAttempt, ChannelStudy, Keeps, quanta

__all__ = ["Round"]

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


@dataclass
class Round:
    """Groups of the model pruned so far, in order of removal and with their curves."""

    study: ChannelStudy
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
        study: ChannelStudy,
        before: ChannelAttempt | None,
        dense_evidence: ChannelStatistics | None,
        last: bool = True,
    ) -> Round:
        """Measure around ``before``, or around the dense model.

        In a ``last`` round that is the first one, branches may be left out where latency is wanted.
        """
        model = study.model if before is None else before.model
        coupling = study.coupling if before is None else study.coupling.of(model)
        layers = study.layers if before is None else find_layers(model)[0]
        plan = study.plan if before is None else plan_stages(model, layers)
        damage = study.options.allocation is None
        fit, test = study.damage_data() if damage else (study.fit, study.fit)
        evidence = ChannelStatistics(
            study.runtime,
            model,
            coupling,
            layers,
            plan,
            fit,
            budget=study.budget,
            damping=study.options.damping,
            seed=study.seed,
        )
        table = study.latencies(coupling)
        if table is None:
            quantum = dict[int, Quantum](quanta(coupling, study.options.quantum, study.runtime_quantum))
        else:
            quantum = dict(table.counts)
        if damage:
            branches = study.branches if last and before is None and table is not None else {}
            ranked = study.measured_curves(evidence, plan, test, before is not None, branches)
            if before is None and table is not None:
                ranked = study.mended_curves(ranked, evidence, fit, test, branches)
        else:
            ranked = study.scored_curves(evidence, quantum, table)
        dense, ratio = Costs(study.coupling), 1.0 if before is None else before.costs.get("latency", 1.0)
        return cls(
            study,
            coupling,
            {} if before is None else study.coupling.keep_indices(before.keep),
            dense_evidence or evidence,
            ranked,
            Costs(coupling),
            quantum,
            {
                "macs": dense.macs.value({}),
                "params": dense.params.value({}),
                "size": dense.bytes.value({}),
                **({} if table is None else {"latency": table.cost.value({}) / ratio}),
            },
            table,
            None if before is None or before.training is None else before.tensors,
        )

    @cached_property
    def latency(self) -> Cost:
        """Milliseconds of a run, branches that may be left out included."""
        assert self.table is not None
        return self.table.cost.leaving_out({k: one.dead for k, one in self.study.branches.items()})

    @cached_property
    def memory(self) -> Memory:
        """Of activations, for one sample."""
        sample = next(iter(self.study.held_out.rebatch(1)))
        model = self.coupling.model
        return Memory(self.coupling, measured(self.study.runtime, model, sample).sizes)

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
            absolute += self.memory.limits(limits["ram"] * self.study.peak)
        share = threshold_channels if self.study.options.by_threshold else allocate_channels
        return share({group: one.curve for group, one in self.ranked.items()}, absolute, self.quantum)

    def reach(self, limits: Mapping[str, float]) -> ChannelAttempt:
        """The attempt whose real costs stay within the limits, as far as that is possible.

        Predicted costs are exact for nearly all models, but latency is not; where they are not, for what
        removal adds to a graph, and for what a file holds beside its initializers, the limits are tightened
        until the real ones hold, and that on latency is loosened while there is much room.
        """
        tight, tried = dict(limits), list[_Tried]()
        if "size" in tight:
            tight["size"] -= max(self.study.dense_bytes - self.dense_costs["size"], 0.0)
        for _ in range(_CORRECTIONS):
            allocation = self.allocate(tight)
            keep = {group: one.keep(allocation.kept[group]) for group, one in self.ranked.items()}
            whole = self._in_dense_terms(keep)
            real = self.study.costs_of(self.study.smaller(whole))
            tried.append(_Tried(allocation, whole, real, {n: real[n] / limits[n] for n in limits}))
            over = {name: ratio for name, ratio in tried[-1].strains.items() if ratio > _allowed(name)}
            if over and not allocation.met:
                break
            if not over:
                room = _allowed("latency") / tried[-1].strains.get("latency", 1.0)
                if room < _ROOM or any(one.allocation.kept == allocation.kept for one in tried[:-1]):
                    break
                tight["latency"] *= math.sqrt(room)
            for name, factor in over.items():
                if name == "size":
                    tight[name] -= real[name] - limits[name]
                else:
                    tight[name] /= factor * 1.001 / _allowed(name)
        best = min(tried, key=_Tried.rank)
        if best.real.get("latency", 0.0) > 1:  # slower than the dense model: then rather that one
            best = replace(best, keep={group: np.ones_like(mask) for group, mask in best.keep.items()})
        kept = {group: best.allocation.kept[group] / one.curve.size for group, one in self.ranked.items()}
        expected = {
            group: float(one.curve.damage(np.array([1 - kept[group]]))[0])
            for group, one in self.ranked.items()
        }
        return self.study.attempt(best.keep, expected, self.dense_evidence, self.start)

    def _in_dense_terms(self, keep: Keeps) -> Keeps:
        """Channels of the dense model that stay when ``keep`` is applied on top of the rounds before."""
        if not self.kept:
            return keep
        dense = self.study.coupling
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
