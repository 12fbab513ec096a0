"""Trials: prune the whole model one way, measure it, and look for the best way within the targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from obs_onnx.allocation.curves import Curve, sparsity_levels
from obs_onnx.allocation.search import largest
from obs_onnx.allocation.targets import Targets
from obs_onnx.allocation.thresholds import threshold_weights
from obs_onnx.allocation.weights import allocate
from obs_onnx.calibration.layer_problem import stored
from obs_onnx.criteria.weight_derivatives import WeightScores
from obs_onnx.criteria.weight_scores import WeightAllocation
from obs_onnx.pruning.context import PruningContext
from obs_onnx.pruning.judgement import Judged
from obs_onnx.pruning.weights.layer_choice import Choice
from obs_onnx.reconstruction.layer_curves import damage_curves
from obs_onnx.reconstruction.layers import Solved, SolveOptions, solve_layers
from obs_onnx.reconstruction.statistics_correction import correct_statistics, reestimate_batch_normalization
from obs_onnx.training.loop import Trained

__all__ = ["Attempt", "Trials"]


SECOND_LOOK = 400


@dataclass(frozen=True)
class Attempt(Judged):
    """A pruned model and how it does on held-out data.

    Attributes:
        model: with the new weights.
        solved: what became of each layer.
        removed: weights set to zero, by layer name.
        renormalised: BatchNormalization statistics were estimated anew.
        training: what retraining did, if there was any.
    """

    model: ir.Model
    solved: Mapping[str, Solved]
    removed: Mapping[str, int]
    renormalised: bool = False
    training: Trained | None = None


@dataclass(kw_only=True)
class Trials(PruningContext):
    """Trials of pruning single weights.

    Attributes:
        choice: what happens to which layer.
        options: of the solver.
        fixed: sparsities that the user set, by layer name.
        correct: try statistics correction.
        allocation: scores that say how many weights of each layer go; None: damage is measured.
        scored: what gradients say about the weights of a model, where ``options.scores`` are such.
    """

    choice: Choice
    options: SolveOptions
    fixed: Mapping[str, float]
    correct: bool
    allocation: WeightAllocation | None = None
    scored: Callable[[ir.Model], WeightScores] | None = None

    def curves(self, center: float, context: ir.Model | None) -> Mapping[str, Curve]:
        """Damage curves around a wanted sparsity, measured on a part of the data to fit on."""
        free = [layer for layer in self.choice.pruned if layer.name not in self.fixed]
        if self.allocation is not None:
            with self.stage("score weights", len(free)) as advance:
                return self.allocation.curves(self.model if context is None else context, free, advance)
        fit, test = self.damage_data()
        count, samples = self.effort.bounded(
            len(self.layers), self.macs, len(self.model.graph), test.count or self.effort.samples
        )
        with self.stage("measure damage", len(self.layers)) as advance:
            return damage_curves(
                self.runtime,
                self.model,
                self.plan,
                fit,
                list(test.limit(samples)),
                levels=sparsity_levels(center, count),
                refinements=self.effort.refinements,
                measure=self.measure,
                options=self.options,
                budget=self.budget,
                advance=advance,
                context=context,
                chosen={layer.name for layer in free},
            )

    def shares(self, curves: Mapping[str, Curve], sparsity: float) -> dict[str, int]:
        """Weights to remove per layer for an overall sparsity; what the user fixed counts towards it."""
        sizes = {layer.name: layer.size for layer in self.choice.pruned}
        set_by_user = {name: math.ceil(share * sizes[name] - 1e-9) for name, share in self.fixed.items()}
        budget = math.ceil(sparsity * self.prunable - 1e-9) - sum(set_by_user.values())
        share = allocate if self.allocation is None else threshold_weights
        return {**set_by_user, **share(curves, max(budget, 0))}

    def attempt(self, removed: Mapping[str, int]) -> Attempt:
        """Prune all layers, correct what measures better corrected, and measure."""
        with self.stage("solve layers", len(self.layers)) as advance:
            model, solved = solve_layers(
                self.runtime,
                self.model,
                self.plan,
                self.fit,
                removed,
                options=self.options,
                budget=self.budget,
                advance=advance,
            )
        best = self._attempted(model, solved, removed)
        if self.correct:
            with self.stage("correct statistics", len(self.layers)) as advance:
                corrected = correct_statistics(
                    self.runtime, self.model, model, self.plan, self.fit, budget=self.budget, advance=advance
                )
                corrected = reestimate_batch_normalization(self.runtime, corrected, self.fit)
            other = replace(
                self._attempted(corrected, solved, removed),
                renormalised=any(node.op_type == "BatchNormalization" for node in corrected.graph),
            )
            if (other.quality.output_error or 0.0) < (best.quality.output_error or 0.0):
                best = other
        return best

    def _attempted(
        self, model: ir.Model, solved: Mapping[str, Solved], removed: Mapping[str, int]
    ) -> Attempt:
        judged = self.judged(model)
        return Attempt(judged.quality, judged.drop, model, solved, removed)

    def _is_cheap(self) -> bool:
        """Whether measuring is cheap enough for a second look, around the pruned model."""
        return self.allocation is None and self.effort.affordable(len(self.layers), self.macs) >= SECOND_LOOK

    @property
    def prunable(self) -> int:
        """Number of weights that may be removed."""
        return sum(layer.size for layer in self.choice.pruned)

    def find(self, wanted: Targets, rounds: int) -> Attempt:
        """The model that satisfies the targets with the most zeros, or the one that comes closest.

        Args:
            wanted: the targets.
            rounds: each one measures the damage again around the model of the round before, and goes on from
                its weights where they were retrained; a wanted sparsity is approached in equal factors of the
                kept share, from that of the model on.
        """
        pattern = self.options.pattern
        if pattern.kind == "nm":
            share = 1 - pattern.rows / pattern.columns
            removed = {layer.name: math.floor(share * layer.size) for layer in self.choice.pruned}
            return self.retrained(self.attempt(removed), wanted, True)
        there = max(self._nonzero(), 1) / self.prunable
        best: Attempt | None = None
        for number in range(1, rounds + 1):
            here = self if best is None or best.training is None else self._around(best.model)
            last = number == rounds
            if wanted.sparsity is None:
                found = here.retrained(here._search(wanted, best), wanted, last)
                best = found if best is None else self._better(found, best, wanted)
                continue
            sparsity = 1 - there * min((1 - wanted.sparsity) / there, 1.0) ** (number / rounds)
            curves = here.curves(sparsity, None if best is None else best.model)
            best = here.attempt(here.shares(curves, sparsity))
            if last and self._is_cheap():
                curves = here.curves(wanted.sparsity, best.model)
                other = here.attempt(here.shares(curves, wanted.sparsity))
                best = min(best, other, key=lambda attempt: attempt.quality.output_error or 0.0)
            best = here.retrained(best, wanted, last)
        assert best is not None
        return best

    def _around(self, model: ir.Model) -> Trials:
        """The same trials of a retrained model, whose weights are worth something else."""
        options = self.options
        if self.scored is not None:
            options = replace(options, scores=self.scored(model))
        allocation = self.allocation
        if allocation is not None:
            known = None if options.scores is None else (model, options.scores)
            allocation = replace(allocation, known=known if allocation.known else None)
        return replace(self, model=model, options=options, allocation=allocation)

    def _nonzero(self) -> int:
        return sum(int(np.count_nonzero(stored(self.model, layer.name))) for layer in self.choice.pruned)

    def retrained(self, attempt: Attempt, wanted: Targets, last: bool) -> Attempt:
        """The attempt after retraining, if there is any; as it was where that broke a limit that it held."""
        if self.retraining is None:
            return attempt
        kept = {layer.name for layer in self.choice.kept}
        kept |= {use.bias for layer in self.choice.kept for use in layer.uses if use.bias is not None}
        model, training = self.trained(attempt.model, kept, True, last)
        judged = self.judged(model)
        if judged.strain(wanted) > 1 >= attempt.strain(wanted):
            return attempt
        return replace(attempt, quality=judged.quality, drop=judged.drop, model=model, training=training)

    def _better(self, found: Attempt, before: Attempt, wanted: Targets) -> Attempt:
        """The one that holds with more zeros; if only one or none holds, the one under less strain."""
        if max(found.strain(wanted), before.strain(wanted)) <= 1:
            return max(before, found, key=lambda attempt: sum(attempt.removed.values()))
        return min(before, found, key=lambda attempt: attempt.strain(wanted))

    def _search(self, wanted: Targets, before: Attempt | None) -> Attempt:
        """The attempt with the largest sparsity that satisfies the limits on error and accuracy."""
        center = 0.85 if before is None else sum(before.removed.values()) / self.prunable
        curves = self.curves(center, None if before is None else before.model)
        tried: list[Attempt] = []

        def trial(sparsity: float) -> tuple[float, Attempt]:
            tried.append(self.attempt(self.shares(curves, sparsity)))
            return tried[-1].strain(wanted), tried[-1]

        def predict(sparsity: float) -> float:
            removed = self.shares(curves, sparsity)
            damage = sum(
                float(curve.damage(np.array([removed[name] / curve.size]))[0])
                for name, curve in curves.items()
            )
            return math.sqrt(damage) / (wanted.error or 0.1)

        found = largest(trial, predict, tolerance=0.01, trials=self.effort.trials)
        return found.result if found else min(tried, key=lambda attempt: attempt.strain(wanted))
