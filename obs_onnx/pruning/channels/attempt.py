"""What trials of removing channels share: curves, costs, making a smaller model, and judging it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.allocation.channels import Quantum
from obs_onnx.allocation.curves import Ranked
from obs_onnx.allocation.refit_correction import SHARES, mended
from obs_onnx.allocation.regularizers import penalties, regularizers
from obs_onnx.allocation.targets import Targets
from obs_onnx.calibration.activation_cache import ActivationCache
from obs_onnx.calibration.layer_problem import Tensors
from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.criteria.channels import CRITERIA
from obs_onnx.criteria.score_curves import criterion_curves
from obs_onnx.data.sources import Source
from obs_onnx.evaluation.output_damage import Damage
from obs_onnx.evaluation.run_cost import measured
from obs_onnx.io.onnx_file import serialize
from obs_onnx.latency import LatencyTable
from obs_onnx.passes.channels.branches import Branch, LeaveOut, find_branches
from obs_onnx.passes.channels.coupling import Coupling, Group
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.graph.parameters import float_tensors
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.stages import Plan
from obs_onnx.pruning.context import PruningContext
from obs_onnx.pruning.effort import REFIT_SAMPLES
from obs_onnx.pruning.judgement import Judged
from obs_onnx.reconstruction.channel_curves import Reference, group_curves
from obs_onnx.reconstruction.channels import emptied, solve_alone, solve_channels, spread
from obs_onnx.training.loop import Trained

__all__ = ["ChannelAttempt", "ChannelOptions", "ChannelStudy", "Keeps", "quanta"]

_LEAST_REMOVED, _MOST_REMOVED = 0.08, 0.92
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
        regularize: what costs take off them, see :mod:`obs_onnx.allocation.regularizers`.
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
        left_out: groups that are gone altogether; ``keep`` has a channel of theirs, without effect.
        training: what retraining did, if there was any.
    """

    model: ir.Model
    keep: Mapping[int, NDArray[np.bool_]]
    tensors: Tensors
    expected: Mapping[int, float]
    costs: Mapping[str, float]
    left_out: frozenset[int] = frozenset()
    training: Trained | None = None

    def kept(self, group: Group) -> int:
        """Channels of a group of the dense model that are left."""
        if group.id in self.left_out:
            return 0
        return int(self.keep[group.id].sum()) if group.id in self.keep else group.n

    def lost(self, dense: ir.Model) -> list[str]:
        """Weights and biases that went with whole branches."""
        held = self.model.graph.initializers
        return [name for name in dense.graph.initializers if name not in held] if self.left_out else []

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
class ChannelStudy(PruningContext):
    """A model whose channels are to be removed.

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

    def attempt(
        self,
        keep: Keeps,
        expected: Mapping[int, float],
        evidence: ChannelStatistics,
        start: Tensors | None = None,
    ) -> ChannelAttempt:
        """Remove channels of the dense model (``start``: its weights by now), refit, and measure.

        ``evidence`` is that of the dense model. Groups of which nothing is kept have to be :attr:`branches`.
        """
        options = self.options
        tensors: Tensors = dict(start or {})
        keep, left_out, empty = self._split(keep)
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
                    empty=empty,
                )
                tensors.update(spread(self.coupling, keep, refitted))
            else:
                if options.compensate:
                    tensors.update(solve_alone(evidence, keep))
                tensors.update(emptied(self.model, self.layers, empty))
                small = self.model.clone()
                SetWeights(tensors)(small)
                RemoveChannels(keep, self.coupling.of(small)).call(small)
            if empty:
                LeaveOut(empty)(small)
        judged = self.judged(small)
        return ChannelAttempt(
            judged.quality,
            judged.drop,
            small,
            keep,
            tensors,
            expected,
            self.costs_of(small),
            left_out,
        )

    def retrained(self, attempt: ChannelAttempt, wanted: Targets, last: bool) -> ChannelAttempt:
        """The attempt after retraining, if there is any; as it was where that broke a limit that it held."""
        if self.retraining is None:
            return attempt
        fixed = [layer for layer in self.layers if layer.name in self.options.fixed]
        frozen = {layer.name for layer in fixed} | {use.bias for layer in fixed for use in layer.uses}
        small, training = self.trained(attempt.model, {name for name in frozen if name}, False, last)
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
        self,
        evidence: ChannelStatistics,
        plan: Plan,
        test: Source,
        damaged: bool,
        branches: Mapping[int, Branch],
    ) -> dict[int, Ranked]:
        """Groups with curves of measured damage.

        Args:
            evidence, plan: of the model that is measured.
            test: data for it.
            damaged: it was pruned before.
            branches: groups that may go altogether.
        """
        model, groups = evidence.model, evidence.coupling.groups
        count, samples = self.effort.bounded(
            len(groups), self.macs, len(model.graph), test.count or self.effort.samples
        )
        feeds, outputs = list(test.limit(samples)), ActivationCache(self.budget // 4)
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
                branches=branches,
            )

    def mended_curves(
        self,
        ranked: Mapping[int, Ranked],
        evidence: ChannelStatistics,
        fit: Source,
        test: Source,
        branches: Mapping[int, Branch],
    ) -> dict[int, Ranked]:
        """Curves of the damage that remains when all layers behind the channels are refitted, if affordable.

        Args:
            ranked: groups of the dense model with curves of the damage behind the next layers' refit alone.
            evidence: of the dense model.
            fit, test: data to refit on and to measure the damage on.
            branches: groups that may go altogether.
        """
        options, layers = self.options, [layer for stage in self.plan.stages for layer in stage.layers]
        probes = len(ranked) * len(SHARES) + len(branches)
        whole = options.compensate and options.sequential
        if not whole or not layers or not self.effort.refits(probes, self.macs, self.moved, layers):
            return dict(ranked)
        feeds = list(test.limit(self.effort.samples))
        expected = [self.dense.run(feed) for feed in feeds]
        few = fit.limit(REFIT_SAMPLES)

        def damage(group: int, mask: NDArray[np.bool_]) -> float:
            keep, _, empty = self._split({group: mask})
            reading = {one.layer.name for one in evidence.consumers(self.coupling.groups[group])}
            first = [layer.name in (reading or empty) for layer in layers]
            before = layers[: first.index(True)] if any(first) else []
            small, _ = solve_channels(
                self.runtime,
                self.coupling,
                self.plan,
                few,
                keep,
                fixed={*options.fixed, *(layer.name for layer in before)},
                damping=options.damping,
                budget=self.budget // 2,
                advance=lambda _: None,
                empty=empty,
            )
            session, found = self.runtime.session(serialize(small)), Damage(self.measure, self.plan.outputs)
            for feed, outputs in zip(feeds, expected, strict=True):
                found.update(outputs, session.run(feed))
            return found.value

        with self.stage("measure damage behind the refit", len(ranked)) as advance:
            return mended(ranked, damage, branches, advance)

    def scored_curves(
        self, evidence: ChannelStatistics, quantum: Mapping[int, Quantum], table: LatencyTable | None = None
    ) -> dict[int, Ranked]:
        """Groups with curves that are sums of a criterion's scores."""
        options, groups = self.options, evidence.coupling.groups
        assert options.allocation is not None
        off: dict[int, float] = {}
        if options.regularize:
            sample = next(iter(self.held_out.rebatch(1)))
            demand = measured(self.runtime, evidence.model, sample)
            latency = None if table is None else table.cost
            costs = regularizers(evidence.coupling, demand.macs, demand.sizes, latency)
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
        keep, _, empty = self._split(keep)
        small = self.model.clone()
        RemoveChannels(keep, self.coupling.of(small)).call(small)
        if empty:
            LeaveOut(empty)(small)
        return small

    @cached_property
    def branches(self) -> dict[int, Branch]:
        """Groups that may go altogether."""
        return find_branches(self.coupling, self.layers)

    def _split(self, keep: Keeps) -> tuple[Keeps, frozenset[int], frozenset[str]]:
        """Masks with a channel at least; groups that had none; layers that give zeros then."""
        left_out = frozenset(group for group, mask in keep.items() if not mask.any())
        first = {group: np.arange(len(keep[group])) == 0 for group in left_out}
        empty = frozenset(name for group in left_out for name in self.branches[group].layers)
        return {**keep, **first}, left_out, empty

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
