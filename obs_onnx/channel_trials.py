"""Trials of removing channels: allocate, remove, refit, measure, and find the best way within the targets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.activations import Activations
from obs_onnx.allocate_channels import Allocation, allocate_channels
from obs_onnx.channelwise import Ranked, Reference, group_curves, solve_alone, solve_channels, spread
from obs_onnx.criterion_curves import criterion_curves
from obs_onnx.evidence import Evidence
from obs_onnx.figures import measured
from obs_onnx.latency import LatencyTable
from obs_onnx.model_file import serialize
from obs_onnx.passes.costs import Cost, Costs
from obs_onnx.passes.coupling import Coupling
from obs_onnx.passes.layers import find_layers
from obs_onnx.passes.memory import Memory
from obs_onnx.passes.parameters import float_tensors
from obs_onnx.passes.remove_channels import RemoveChannels
from obs_onnx.passes.segments import Plan, plan_stages
from obs_onnx.passes.set_weights import SetWeights
from obs_onnx.prefixes import Tensors
from obs_onnx.regularizers import penalties, regularizers
from obs_onnx.saliency import CRITERIA
from obs_onnx.search import largest
from obs_onnx.sources import Source
from obs_onnx.study import Judged, Study
from obs_onnx.targets import Targets
from obs_onnx.thresholds import threshold_channels
from obs_onnx.train import Trained

__all__ = ["ChannelAttempt", "ChannelOptions", "ChannelTrials", "quanta"]

_LEAST_REMOVED, _MOST_REMOVED = 0.08, 0.92
_CORRECTIONS = 6
_ROOM = 1.04  # of a limit on latency, that is not worth another correction
_MULTIPLES = 8

Keeps = dict[int, NDArray[np.bool_]]


@dataclass(frozen=True)
class ChannelOptions:
    """How channels are chosen.

    Attributes:
        criterion: name of the criterion that ranks the channels of a group.
        damping: of the second moments, relative to the mean of their diagonal.
        compensate: refit what is left.
        sequential: refit layer by layer on what the smaller model really gives, to the dense outputs.
        quantum: kept counts are multiples of it; None: of a power of two up to 8 that leaves enough choice.
        fixed: layers that the user wants left alone.
        allocation: criterion whose scores say how much of each group goes; None: damage is measured.
        normalize: make those scores comparable by their norm, and cut at one threshold.
        regularize: what costs take off them, see :mod:`obs_onnx.regularizers`.
    """

    criterion: str = "obs"
    damping: float = 1e-2
    compensate: bool = True
    sequential: bool = True
    quantum: int | None = None
    fixed: frozenset[str] = frozenset()
    allocation: str | None = None
    normalize: bool = False
    regularize: Mapping[str, float] = field(default_factory=dict)

    @property
    def by_threshold(self) -> bool:
        """Whether what scores lowest goes, whatever it saves: costs are in the scores, or do not count."""
        return self.normalize or bool(self.regularize)


@dataclass(frozen=True)
class ChannelAttempt(Judged):
    """A smaller model and how it does.

    Attributes:
        model: without the removed channels.
        keep: channels of the dense model that stay, by group.
        tensors: initializers of the dense model with the compensated weights of ``model`` in their places.
        expected: damage by group that the curves predict.
        costs: reached, as shares of the dense model's, and ``size`` in bytes.
        training: what retraining did, if there was any.
    """

    model: ir.Model
    keep: Mapping[int, NDArray[np.bool_]]
    tensors: Tensors
    expected: Mapping[int, float]
    costs: Mapping[str, float]
    training: Trained | None = None

    def met(self, wanted: Targets, limits: Mapping[str, float]) -> bool:
        """Whether all targets hold; ``limits`` are those on costs."""
        return self.strain(wanted) <= 1 and all(
            self.costs[name] <= limit * (1 + 1e-9) for name, limit in limits.items()
        )


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


@dataclass(kw_only=True)
class ChannelTrials(Study):
    """Trials of removing channels.

    Attributes:
        coupling: of ``model``.
        options: see there.
        runtime_quantum: multiple of channels that the runtime likes.
        dense_bytes: size of the dense model's file.
    """

    coupling: Coupling
    options: ChannelOptions
    runtime_quantum: int
    dense_bytes: int

    def limits(self, wanted: Targets) -> dict[str, float]:
        """Limits on costs: shares of the dense model's, and for ``size`` bytes."""
        shares = ("macs", "params", "latency")
        limits = {name: value for name in shares if (value := getattr(wanted, name)) is not None}
        if wanted.size is not None:
            limits["size"] = wanted.size * self.dense_bytes if wanted.size < 1 else wanted.size
        if wanted.ram is not None:
            limits["ram"] = wanted.ram if wanted.ram < 1 else wanted.ram / max(self.peak, 1)
        if wanted.latency_ms is not None and self.stopwatch is not None:
            limits["latency"] = wanted.latency_ms / self.stopwatch.dense_ms
        return limits

    def find(self, wanted: Targets, rounds: int) -> ChannelAttempt:
        """The model that satisfies the targets with the least damage, or the one that comes closest.

        Args:
            wanted: the targets.
            rounds: each one estimates everything again around the model of the round before, retrained where
                that is wanted; limits on costs are approached in equal factors.
        """
        limits = self.limits(wanted)
        best: ChannelAttempt | None = None
        part: _Round | None = None
        for number in range(1, rounds + 1):
            part = _Round.of(self, best, None if part is None else part.dense_evidence)
            if not limits:
                found = self.retrained(self._search(part, wanted), wanted)
                best = found if best is None else min(best, found, key=lambda a: _rank(a, wanted))
                continue
            step = {
                name: limit ** (number / rounds)
                if name != "size"
                else self.dense_bytes * (limit / self.dense_bytes) ** (number / rounds)
                for name, limit in limits.items()
            }
            best = self.retrained(part.reach(step), wanted)
        assert best is not None
        return best

    def _search(self, part: _Round, wanted: Targets) -> ChannelAttempt:
        """The attempt that costs least (time or multiply-accumulates) within the limits on error and drop."""
        cost = "latency" if wanted.fastest else "macs" if part.costs.macs.value({}) else "params"
        tried: list[ChannelAttempt] = []

        def trial(removed: float) -> tuple[float, ChannelAttempt]:
            tried.append(part.reach({cost: 1 - removed}))
            return tried[-1].strain(wanted), tried[-1]

        def predict(removed: float) -> float:
            damage = part.allocate({cost: 1 - removed}).damage
            return math.sqrt(damage) / (wanted.error or 0.1)

        found = largest(trial, predict, tolerance=0.01, trials=self.effort.trials)
        if found is not None:
            return found.result
        tried.append(part.reach({cost: 1.0}))  # nothing can go: that holds, unless refitting breaks it
        return min(tried, key=lambda attempt: attempt.strain(wanted))

    def attempt(
        self, keep: Keeps, expected: Mapping[int, float], evidence: Evidence, start: Tensors | None = None
    ) -> ChannelAttempt:
        """Remove channels of the dense model (``start``: its weights by now), refit, and measure.

        ``evidence`` is that of the dense model.
        """
        options = self.options
        tensors: Tensors = dict(start or {})
        with self.stage("remove and refit", len(self.layers)) as advance:
            if options.compensate and options.sequential:
                small, refitted = solve_channels(
                    self.runtime,
                    self.coupling,
                    self.plan,
                    self.fit,
                    keep,
                    fixed=options.fixed,
                    damping=options.damping,
                    budget=self.budget,
                    advance=advance,
                    start=start,
                )
                tensors.update(spread(self.coupling, keep, refitted))
            else:
                if options.compensate:
                    tensors.update(solve_alone(evidence, keep))
                small = self.model.clone()
                SetWeights(tensors)(small)
                RemoveChannels(keep, self.coupling.of(small)).call(small)
        judged = self.judged(small)
        return ChannelAttempt(
            judged.quality,
            judged.drop,
            small,
            keep,
            tensors,
            expected,
            self.costs_of(small),
        )

    def retrained(self, attempt: ChannelAttempt, wanted: Targets) -> ChannelAttempt:
        """The attempt after retraining, if there is any; as it was where that broke a limit that it held."""
        if self.retraining is None:
            return attempt
        fixed = [layer for layer in self.layers if layer.name in self.options.fixed]
        frozen = {layer.name for layer in fixed} | {use.bias for layer in fixed for use in layer.uses}
        small, training = self.trained(attempt.model, {name for name in frozen if name}, keep_zeros=False)
        judged = self.judged(small)
        if judged.strain(wanted) > 1 >= attempt.strain(wanted):
            return attempt
        return replace(
            attempt,
            quality=judged.quality,
            drop=judged.drop,
            model=small,
            tensors={**attempt.tensors, **spread(self.coupling, attempt.keep, training.weights)},
            training=training,
        )

    def latencies(self, coupling: Coupling) -> LatencyTable | None:
        """Latency as a function of widths, where it is wanted."""
        if self.stopwatch is None:
            return None
        with self.stage("measure latency") as advance:
            return self.stopwatch.table(coupling, advance)

    def measured_curves(
        self, evidence: Evidence, plan: Plan, test: Source, damaged: bool
    ) -> dict[int, Ranked]:
        """Groups with curves of measured damage; ``damaged``: around a model that was pruned before."""
        model, groups = evidence.model, evidence.coupling.groups
        count, samples = self.effort.bounded(
            len(groups), self.macs, len(model.graph), test.count or self.effort.samples
        )
        feeds, outputs = list(test.limit(samples)), Activations(self.budget // 4)
        for feed in feeds:
            outputs.append(self.dense.run(feed))
        with self.stage("measure damage", len(groups)) as advance:
            return group_curves(
                self.runtime,
                evidence,
                plan,
                Reference(feeds, outputs, self.measure),
                criterion=CRITERIA[self.options.criterion],
                levels=np.linspace(_LEAST_REMOVED, _MOST_REMOVED, count).tolist(),
                compensate=self.options.compensate,
                budget=self.budget,
                advance=advance,
                damaged=damaged,
            )

    def scored_curves(self, evidence: Evidence, quantum: Mapping[int, int]) -> dict[int, Ranked]:
        """Groups with curves that are sums of a criterion's scores."""
        options, groups = self.options, evidence.coupling.groups
        assert options.allocation is not None
        off: dict[int, float] = {}
        if options.regularize:
            sample = next(iter(self.held_out.rebatch(1)))
            demand = measured(self.runtime, evidence.model, sample)
            costs = regularizers(evidence.coupling, demand.macs, demand.sizes)
            off = penalties(options.regularize, costs, groups, quantum)
        with self.stage("score channels", len(groups)) as advance:
            return criterion_curves(
                evidence,
                order=options.criterion,
                allocation=options.allocation,
                normalize=options.by_threshold,
                penalties=off,
                advance=advance,
            )

    def smaller(self, keep: Keeps) -> ir.Model:
        """The dense model without the channels, weights as they are."""
        small = self.model.clone()
        RemoveChannels(keep, self.coupling.of(small)).call(small)
        return small

    def costs_of(self, small: ir.Model) -> dict[str, float]:
        """What a smaller model really costs: shares of the dense model's, and bytes of its file."""
        demand = measured(self.runtime, small, next(iter(self.held_out.rebatch(1))))
        before, after = (sum(tensor.size for tensor in float_tensors(model)) for model in (self.model, small))
        return {
            "macs": demand.macs / self.macs if self.macs else 1.0,
            "ram": demand.peak.bytes / self.peak if self.peak else 1.0,
            "params": after / before if before else 1.0,
            "size": float(len(serialize(small))),
            **({} if self.stopwatch is None else {"latency": self.stopwatch.ratio(small)}),
        }


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
class _Round:
    """Groups of the model pruned so far, in order of removal and with their curves."""

    study: ChannelTrials
    coupling: Coupling
    kept: Mapping[str, Mapping[str, list[int]]]
    dense_evidence: Evidence
    ranked: dict[int, Ranked]
    costs: Costs
    quantum: dict[int, int]
    dense_costs: Mapping[str, float]
    table: LatencyTable | None = None
    start: Tensors | None = None

    @classmethod
    def of(
        cls, study: ChannelTrials, before: ChannelAttempt | None, dense_evidence: Evidence | None
    ) -> _Round:
        """Measure around ``before``, or around the dense model."""
        model = study.model if before is None else before.model
        coupling = study.coupling if before is None else study.coupling.of(model)
        layers = study.layers if before is None else find_layers(model)[0]
        plan = study.plan if before is None else plan_stages(model, layers)
        damage = study.options.allocation is None
        fit, test = study.damage_data() if damage else (study.fit, study.fit)
        evidence = Evidence(
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
            quantum = quanta(coupling, study.options.quantum, study.runtime_quantum)
        else:
            quantum = dict(table.quanta)
        if damage:
            ranked = study.measured_curves(evidence, plan, test, damaged=before is not None)
        else:
            ranked = study.scored_curves(evidence, quantum)
        dense = Costs(study.coupling)
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
                "latency": table.cost.value({}) / (before.costs["latency"] if before else 1) if table else 0.0,
            },
            table,
            None if before is None or before.training is None else before.tensors,
        )

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
            costs["latency"] = self.table.cost
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


def _rank(attempt: ChannelAttempt, wanted: Targets) -> tuple[bool, float]:
    """Sorts attempts: those that hold by their costs, then the others by their strain."""
    strain = attempt.strain(wanted)
    return (True, strain) if strain > 1 else (False, attempt.costs["macs"])
