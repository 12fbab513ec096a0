"""Trials: prune the whole model one way, measure it, and look for the best way within the targets."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from obs_onnx.allocate import Curve, allocate, sparsity_levels
from obs_onnx.correct import correct_statistics, reestimate_batch_normalization
from obs_onnx.evaluation import Evaluation, evaluate_sessions
from obs_onnx.layerwise import Solved, SolveOptions, damage_curves, solve_layers
from obs_onnx.model_file import serialize
from obs_onnx.passes.layers import Layer
from obs_onnx.passes.segments import Plan
from obs_onnx.prunable import Choice
from obs_onnx.report.progress import Advance, Progress
from obs_onnx.runtimes import Runtime, Session
from obs_onnx.search import largest
from obs_onnx.sources import Source
from obs_onnx.targets import Targets

__all__ = ["EFFORTS", "Attempt", "Effort", "Trials"]


MOST_LEVELS = 8
DAMAGE_SHARE = 0.3
LEAST_SAMPLES = 8
SECOND_LOOK = 400


@dataclass(frozen=True)
class Effort:
    """How much measuring is done.

    Attributes:
        levels: sparsities at which each layer's damage is measured at least.
        refinements: further levels per layer, where its curve bends.
        samples: on which the damage is measured, at most.
        macs: multiply-accumulates that measuring may take; cheap models get up to :data:`MOST_LEVELS` levels.
        trials: models that are pruned and measured in the search for the largest sparsity.
    """

    levels: int
    refinements: int
    samples: int
    macs: float
    trials: int

    def affordable(self, layers: int, macs: int) -> float:
        """How often ``macs`` allows to measure every one of so many layers of a model with so many MACs."""
        return self.macs / max(layers * self.samples * macs, 1)

    def levels_for(self, layers: int, macs: int) -> int:
        """Levels per layer of a model with so many layers and multiply-accumulates."""
        return max(self.levels, min(int(self.affordable(layers, macs)), MOST_LEVELS))


EFFORTS = {
    "quick": Effort(levels=4, refinements=0, samples=128, macs=2e11, trials=4),
    "normal": Effort(levels=5, refinements=1, samples=512, macs=4e12, trials=6),
    "thorough": Effort(levels=10, refinements=3, samples=2048, macs=1e14, trials=8),
}


@dataclass(frozen=True)
class Attempt:
    """A pruned model and how it does on held-out data.

    Attributes:
        model: with the new weights.
        solved: what became of each layer.
        removed: weights set to zero, by layer name.
        quality: against the dense model, on held-out data.
        drop: loss of accuracy as a share, if there are labels.
        renormalised: BatchNormalization statistics were estimated anew.
    """

    model: ir.Model
    solved: Mapping[str, Solved]
    removed: Mapping[str, int]
    quality: Evaluation
    drop: float | None
    renormalised: bool = False

    def strain(self, targets: Targets) -> float:
        """Largest ratio of a measured figure to its limit; at most 1 if all limits hold."""
        pairs = ((self.quality.output_error, targets.error), (self.drop, targets.drop))
        return max((value / limit for value, limit in pairs if limit and value is not None), default=0.0)


@dataclass
class Trials:
    """Everything that pruning the same model again and again shares.

    Attributes:
        model: dense, canonical.
        layers: that may change; those of ``choice`` that are pruned or refitted.
        choice: what happens to which layer.
        plan: stages of ``layers``.
        runtime: where everything runs.
        fit, held_out: calibration data to learn from, and to measure errors on.
        options: of the solver.
        effort: how much is measured.
        measure: damage that allocation minimises.
        budget: bytes of activations in memory.
        progress: shows stages.
        dense: session of ``model``.
        evaluation: labelled data, or None.
        dense_accuracy: of ``model`` on it.
        fixed: sparsities that the user set, by layer name.
        macs: multiply-accumulates of one run on one sample.
        correct: try statistics correction.
        seconds: of every stage so far.
    """

    model: ir.Model
    layers: Sequence[Layer]
    choice: Choice
    plan: Plan
    runtime: Runtime
    fit: Source
    held_out: Source
    options: SolveOptions
    effort: Effort
    measure: str
    budget: int
    progress: Progress
    dense: Session
    evaluation: Source | None
    dense_accuracy: float | None
    fixed: Mapping[str, float]
    macs: int
    correct: bool
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Time a stage and show how far it is."""
        start = time.perf_counter()
        with self.progress.stage(name, total) as advance:
            yield advance
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def curves(self, center: float, context: ir.Model | None) -> dict[str, Curve]:
        """Damage curves around a wanted sparsity, measured on a part of the data to fit on.

        With very little data, all of it serves both purposes.
        """
        fit = test = self.fit
        if fit.count is None or fit.count * (1 - DAMAGE_SHARE) >= LEAST_SAMPLES:
            fit, test = fit.split(DAMAGE_SHARE, self.options.seed)
        with self.stage("measure damage", len(self.layers)) as advance:
            return damage_curves(
                self.runtime,
                self.model,
                self.plan,
                fit,
                list(test.limit(self.effort.samples)),
                levels=sparsity_levels(center, self.effort.levels_for(len(self.layers), self.macs)),
                refinements=self.effort.refinements,
                measure=self.measure,
                options=self.options,
                budget=self.budget,
                advance=advance,
                context=context,
                chosen={layer.name for layer in self.choice.pruned} - set(self.fixed),
            )

    def shares(self, curves: Mapping[str, Curve], sparsity: float) -> dict[str, int]:
        """Weights to remove per layer for an overall sparsity; what the user fixed counts towards it."""
        sizes = {layer.name: layer.size for layer in self.choice.pruned}
        set_by_user = {name: math.ceil(share * sizes[name] - 1e-9) for name, share in self.fixed.items()}
        budget = math.ceil(sparsity * self.prunable - 1e-9) - sum(set_by_user.values())
        return {**set_by_user, **allocate(curves, max(budget, 0))}

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
        best = self.judged(model, solved, removed)
        if self.correct:
            with self.stage("correct statistics", len(self.layers)) as advance:
                corrected = correct_statistics(
                    self.runtime, self.model, model, self.plan, self.fit, budget=self.budget, advance=advance
                )
                corrected = reestimate_batch_normalization(self.runtime, corrected, self.fit)
            other = replace(
                self.judged(corrected, solved, removed),
                renormalised=any(node.op_type == "BatchNormalization" for node in corrected.graph),
            )
            if (other.quality.output_error or 0.0) < (best.quality.output_error or 0.0):
                best = other
        return best

    def judged(self, model: ir.Model, solved: Mapping[str, Solved], removed: Mapping[str, int]) -> Attempt:
        """A pruned model, measured on held-out (and labelled) data."""
        session = self.runtime.session(serialize(model))
        with self.stage("evaluate"):
            quality = evaluate_sessions(session, self.held_out, self.dense)
            drop = None
            if self.evaluation is not None and self.dense_accuracy is not None:
                accuracy = evaluate_sessions(session, self.evaluation).accuracy
                drop = None if accuracy is None else self.dense_accuracy - accuracy
        return Attempt(model, solved, removed, quality, drop)

    def _is_cheap(self) -> bool:
        """Whether measuring is cheap enough for a second look, around the pruned model."""
        return self.effort.affordable(len(self.layers), self.macs) >= SECOND_LOOK

    @property
    def prunable(self) -> int:
        """Number of weights that may be removed."""
        return sum(layer.size for layer in self.choice.pruned)

    def find(self, wanted: Targets, rounds: int) -> Attempt:
        """The model that satisfies the targets with the most zeros, or the one that comes closest.

        Args:
            wanted: the targets.
            rounds: each one measures the damage again around the model of the round before; a wanted sparsity
                is approached in equal factors of the kept share.
        """
        pattern = self.options.pattern
        if pattern.kind == "nm":
            share = 1 - pattern.rows / pattern.columns
            return self.attempt({layer.name: math.floor(share * layer.size) for layer in self.choice.pruned})
        best: Attempt | None = None
        for number in range(1, rounds + 1):
            if wanted.sparsity is None:
                found = self._search(wanted, best)
                best = found if best is None else self._better(found, best, wanted)
                continue
            sparsity = 1 - (1 - wanted.sparsity) ** (number / rounds)
            curves = self.curves(sparsity, None if best is None else best.model)
            best = self.attempt(self.shares(curves, sparsity))
        if wanted.sparsity is not None and best is not None and self._is_cheap():
            curves = self.curves(wanted.sparsity, best.model)
            other = self.attempt(self.shares(curves, wanted.sparsity))
            best = min(best, other, key=lambda attempt: attempt.quality.output_error or 0.0)
        assert best is not None
        return best

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
