"""What every round of pruning single weights starts from, and the model with zeros that it ends with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from obs_onnx.allocation.curves import Curve, sparsity_levels
from obs_onnx.allocation.targets import Targets
from obs_onnx.allocation.thresholds import threshold_weights
from obs_onnx.allocation.weights import allocate
from obs_onnx.calibration.layer_weights import weight_of
from obs_onnx.criteria.reference_loss import LabelledBatches
from obs_onnx.criteria.weight_derivatives import WeightDerivatives, WeightScores
from obs_onnx.criteria.weight_scores import WeightAllocation
from obs_onnx.pruning.calibrated import Calibrated
from obs_onnx.pruning.judgement import judge, with_model
from obs_onnx.pruning.recorder import Recorder
from obs_onnx.pruning.retrained import parameters_of, refined, retrained
from obs_onnx.pruning.weights.attempt import WeightAttempt
from obs_onnx.pruning.weights.layer_choice import Choice
from obs_onnx.reconstruction.layer_curves import damage_curves
from obs_onnx.reconstruction.layers import Solved, SolveOptions, solve_layers
from obs_onnx.reconstruction.statistics_correction import correct_statistics, reestimate_batch_normalization
from obs_onnx.training.loop import Trained
from obs_onnx.training.retraining import Retraining

__all__ = ["WeightTask", "attempt_pruning", "refine_attempt", "retrain_attempt", "weight_scores"]

_SECOND_LOOK = 400


@dataclass(frozen=True)
class WeightTask:
    """Layers of a calibrated model, and how their weights are to be chosen.

    Attributes:
        model: whose weights are pruned: the dense one, or it retrained.
        choice: what happens to which layer.
        options: of the solver.
        fixed: sparsities that the user set, by layer name.
        correct: try statistics correction.
        refine: correct all weights together at last.
        allocation: scores that say how many weights of each layer go; None: damage is measured.
        calibrated: the dense model and the data.
        recorder: of the stages.
    """

    model: ir.Model
    choice: Choice
    options: SolveOptions
    fixed: Mapping[str, float]
    correct: bool
    refine: bool
    allocation: WeightAllocation | None
    calibrated: Calibrated
    recorder: Recorder

    @property
    def prunable(self) -> int:
        """Number of weights that may be removed."""
        return sum(layer.size for layer in self.choice.pruned)

    @property
    def nonzero(self) -> int:
        """How many of them are not zero now."""
        return sum(int(np.count_nonzero(weight_of(self.model, layer))) for layer in self.choice.pruned)

    @property
    def is_cheap(self) -> bool:
        """Whether measuring is cheap enough for a second look, around the pruned model."""
        dense, effort = self.calibrated.dense, self.calibrated.budget.effort
        affordable = effort.affordable(len(dense.layers), dense.cost.macs)
        cheap = affordable >= _SECOND_LOOK and effort.solves_again(dense.layers)
        return self.allocation is None and cheap

    @property
    def measures(self) -> bool:
        """Whether damage is measured, rather than given by a pattern or by scores."""
        return self.options.pattern.kind != "nm" and self.allocation is None

    def around(self, model: ir.Model) -> WeightTask:
        """The same task for a retrained model, whose weights are worth something else."""
        options, allocation = self.options, self.allocation
        if options.scores is not None:
            options = replace(options, scores=weight_scores(model, self.calibrated, options.method))
        if allocation is not None:
            known = None if options.scores is None else (model, options.scores)
            allocation = replace(allocation, known=known if allocation.known else None)
        return replace(self, model=model, options=options, allocation=allocation)

    def curves(self, center: float, context: ir.Model | None) -> Mapping[str, Curve]:
        """Damage curves around a wanted sparsity, measured on a part of the data to fit on.

        Args:
            center: the sparsity.
            context: a model pruned before, around which is measured; by default the task's own.
        """
        dense, budget = self.calibrated.dense, self.calibrated.budget
        free = [layer for layer in self.choice.pruned if layer.name not in self.fixed]
        if self.allocation is not None:
            with self.recorder.stage("score weights", len(free)) as advance:
                return self.allocation.curves(self.model if context is None else context, free, advance)
        fit, test = self.calibrated.data.for_damage()
        count, samples = budget.effort.bounded(
            len(dense.layers),
            dense.cost.macs,
            len(self.model.graph),
            test.count or budget.effort.samples,
            dense.rows,
        )
        count = budget.effort.solved_levels(count, free)
        with self.recorder.stage("measure damage", len(dense.layers)) as advance:
            return damage_curves(
                dense.runtime,
                self.model,
                dense.stages,
                fit,
                test.limit(samples),
                levels=sparsity_levels(center, count),
                refinements=budget.effort.refinements,
                yardstick=self.calibrated.yardstick,
                options=self.options,
                budget=budget.activations,
                advance=advance,
                context=context,
                chosen={layer.name for layer in free},
                work=self.calibrated.work,
                memory=budget.memory,
            )

    def shares(self, curves: Mapping[str, Curve], sparsity: float) -> dict[str, int]:
        """Weights to remove per layer for an overall sparsity; what the user fixed counts towards it."""
        sizes = {layer.name: layer.size for layer in self.choice.pruned}
        set_by_user = {name: math.ceil(share * sizes[name] - 1e-9) for name, share in self.fixed.items()}
        budget = math.ceil(sparsity * self.prunable - 1e-9) - sum(set_by_user.values())
        share = allocate if self.allocation is None else threshold_weights
        return {**set_by_user, **share(curves, max(budget, 0))}


def weight_scores(model: ir.Model, calibrated: Calibrated, kind: str) -> WeightScores:
    """What gradients say about every weight of a model; computed when the first layer is asked for.

    Args:
        model: the dense one, or it with other weights.
        calibrated: its data.
        kind: of the terms, see :mod:`obs_onnx.criteria.weight_derivatives`.
    """
    dense, data = calibrated.dense, calibrated.data
    lessons = LabelledBatches(dense.runtime, model, data.fit, data.seed, calibrated.yardstick.task)
    names = [layer.name for layer in dense.layers]
    return WeightScores(WeightDerivatives(lessons, names, data.seed), kind)


def attempt_pruning(task: WeightTask, removed: Mapping[str, int]) -> WeightAttempt:
    """Prune all layers, correct what measures better corrected, and measure.

    Args:
        task: the model and its data.
        removed: number of weights to set to zero, by layer name.
    """
    dense, data, memory = task.calibrated.dense, task.calibrated.data, task.calibrated.budget.activations
    with task.recorder.stage("solve layers", len(dense.layers)) as advance:
        model, solved = solve_layers(
            dense.runtime,
            task.model,
            dense.stages,
            data.fit,
            removed,
            options=task.options,
            budget=memory,
            advance=advance,
            work=task.calibrated.work,
        )
    best = _attempted(task, model, solved, removed)
    if not task.correct:
        return best
    with task.recorder.stage("correct statistics", len(dense.layers)) as advance:
        corrected = correct_statistics(
            dense.runtime, task.model, model, dense.stages, data.fit, budget=memory, advance=advance
        )
        corrected = reestimate_batch_normalization(dense.runtime, corrected, data.fit)
    other = replace(
        _attempted(task, corrected, solved, removed),
        renormalised=any(node.op_type == "BatchNormalization" for node in corrected.graph),
    )
    better = (other.quality.output_error or 0.0) < (best.quality.output_error or 0.0)
    return other if better else best


def _attempted(
    task: WeightTask, model: ir.Model, solved: Mapping[str, Solved], removed: Mapping[str, int]
) -> WeightAttempt:
    judged = judge(model, task.calibrated, task.recorder)
    return WeightAttempt(judged.quality, judged.drop, model, solved, removed, labelled=judged.labelled)


def retrain_attempt(
    task: WeightTask,
    attempt: WeightAttempt,
    retraining: Retraining,
    before: Sequence[Trained],
    targets: Targets,
    last: bool,
) -> tuple[WeightAttempt, Trained]:
    """The attempt after retraining, or as it was where that broke a limit that it held; what was done.

    Args:
        task: the model and its data.
        attempt: not changed.
        retraining: how.
        before: what was trained after the rounds before.
        targets: whose limits count.
        last: no round follows.
    """
    found = retrained(
        attempt,
        retraining,
        parameters_of(task.choice.kept),
        before,
        keep_zeros=True,
        last=last,
        targets=targets,
        calibrated=task.calibrated,
        recorder=task.recorder,
    )
    if not found.kept:
        return attempt, found.training
    return with_model(attempt, found.model, found.judged, training=found.training), found.training


def refine_attempt(task: WeightTask, attempt: WeightAttempt, targets: Targets) -> WeightAttempt:
    """The attempt with all weights corrected together, or as it was where that is not better.

    Args:
        task: the model and its data.
        attempt: not changed.
        targets: whose limits count.
    """
    if not (task.refine and task.options.compensate and task.options.sequential):
        return attempt
    frozen = parameters_of(task.choice.kept)
    found = refined(attempt, frozen, targets=targets, calibrated=task.calibrated, recorder=task.recorder)
    return with_model(attempt, found.model, found.judged, refined=found.refinement)
