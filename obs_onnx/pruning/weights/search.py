"""The search for the best model with zeros: prune the whole model one way, measure it, try another way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from obs_onnx.allocation.curves import Curve
from obs_onnx.allocation.search import largest
from obs_onnx.allocation.targets import ERROR, SPARSITY, Targets
from obs_onnx.pruning.weights.attempt import WeightAttempt
from obs_onnx.pruning.weights.task import WeightTask, attempt_pruning, refine_attempt, retrain_attempt
from obs_onnx.training.loop import Trained
from obs_onnx.training.retraining import Retraining

__all__ = ["search_weights"]

_FIRST_CENTER = 0.85  # sparsity around which the first curves are measured


def search_weights(
    task: WeightTask, targets: Targets, rounds: int, retraining: Retraining | None
) -> tuple[WeightAttempt, tuple[Trained, ...]]:
    """The model that satisfies the targets with the most zeros, or the one that comes closest.

    Args:
        task: the model, its data, and how weights are chosen.
        targets: whose limits count.
        rounds: each one measures the damage again around the model of the round before, and goes on from its
            weights where they were retrained; a wanted sparsity is approached in equal factors of the kept
            share, from that of the model on. A pattern N:M needs one round.
        retraining: what follows each round, if anything.

    Returns:
        The model, and what retraining did after each round.
    """
    by_pattern = task.options.pattern.kind == "nm"
    rounds = 1 if by_pattern else rounds
    there = max(task.nonzero, 1) / task.prunable
    best: WeightAttempt | None = None
    wanted = targets.share(SPARSITY)
    runs: list[Trained] = []
    for number in range(1, rounds + 1):
        here = task if best is None or best.training is None else task.around(best.model)
        last = number == rounds
        if by_pattern:
            found = attempt_pruning(task, _shares_of_pattern(task))
        elif wanted is None:
            found = _sparsest(here, targets, best)
        else:
            sparsity = 1 - there * min((1 - wanted) / there, 1.0) ** (number / rounds)
            found = _at_sparsity(here, sparsity, best, wanted if last else None)
        if retraining is not None:
            found, training = retrain_attempt(here, found, retraining, runs, targets, last)
            runs.append(training)
        better = best is None or wanted is not None
        best = found if best is None or better else _better(found, best, targets)
    assert best is not None
    if retraining is None:
        best = refine_attempt(task, best, targets)
    return best, tuple(runs)


def _shares_of_pattern(task: WeightTask) -> dict[str, int]:
    """Weights that a pattern N:M takes from each layer."""
    pattern = task.options.pattern
    share = 1 - pattern.rows / pattern.columns
    return {layer.name: math.floor(share * layer.size) for layer in task.choice.pruned}


def _at_sparsity(
    task: WeightTask, sparsity: float, before: WeightAttempt | None, final: float | None
) -> WeightAttempt:
    """The attempt with an overall sparsity.

    Args:
        task: the model.
        sparsity: of the attempt.
        before: the attempt of the round before.
        final: the sparsity that is wanted, in the last round: there a second look around the attempt may
            lead to a better one.
    """
    curves = task.curves(sparsity, None if before is None else before.model)
    best = _attempt(task, curves, sparsity)
    if final is None or not task.is_cheap:
        return best
    curves = task.curves(final, best.model)
    other = _attempt(task, curves, final)
    return min(best, other, key=lambda attempt: attempt.quality.output_error or 0.0)


def _sparsest(task: WeightTask, targets: Targets, before: WeightAttempt | None) -> WeightAttempt:
    """The attempt with the largest sparsity that satisfies the limits on error and accuracy."""
    center = _FIRST_CENTER if before is None else sum(before.removed.values()) / task.prunable
    curves = task.curves(center, None if before is None else before.model)
    tried: list[WeightAttempt] = []

    def trial(sparsity: float) -> tuple[float, WeightAttempt]:
        tried.append(_attempt(task, curves, sparsity))
        return tried[-1].strain(targets), tried[-1]

    def predict(sparsity: float) -> float:
        damage = _damage(curves, task.shares(curves, sparsity))
        return math.sqrt(damage) / (targets.share(ERROR) or 0.1)

    trials = task.calibrated.budget.effort.trials
    found = largest(trial, predict, tolerance=0.01, trials=trials)
    return found.result if found else min(tried, key=lambda attempt: attempt.strain(targets))


def _attempt(task: WeightTask, curves: Mapping[str, Curve], sparsity: float) -> WeightAttempt:
    """The attempt with an overall sparsity that the curves share out."""
    return replace(attempt_pruning(task, task.shares(curves, sparsity)), curves=curves)


def _damage(curves: Mapping[str, Curve], removed: Mapping[str, int]) -> float:
    """Sum over the layers of what removing so many weights of each does."""
    return sum(
        float(curve.damage(np.array([removed[name] / curve.size]))[0]) for name, curve in curves.items()
    )


def _better(found: WeightAttempt, before: WeightAttempt, targets: Targets) -> WeightAttempt:
    """The one that holds with more zeros; if only one or none holds, the one under less strain."""
    if max(found.strain(targets), before.strain(targets)) <= 1:
        return max(before, found, key=lambda attempt: sum(attempt.removed.values()))
    return min(before, found, key=lambda attempt: attempt.strain(targets))
