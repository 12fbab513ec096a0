"""The search for the best smaller model: allocate, remove, refit, measure, within the targets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from obs_onnx.allocation.search import largest
from obs_onnx.allocation.targets import ERROR, MACS, PARAMS, TARGETS, Targets
from obs_onnx.io.scratch import let_go
from obs_onnx.pruning.channels.attempt import ChannelAttempt
from obs_onnx.pruning.channels.lossless import lossless, unchanged
from obs_onnx.pruning.channels.round import Round
from obs_onnx.pruning.channels.task import ChannelTask, refine_attempt, retrain_attempt
from obs_onnx.training.loop import Trained
from obs_onnx.training.retraining import Retraining

__all__ = ["search_channels"]


def search_channels(
    task: ChannelTask, targets: Targets, rounds: int, retraining: Retraining | None
) -> tuple[ChannelAttempt, tuple[Trained, ...], tuple[str, ...]]:
    """The model that satisfies the targets with the least damage, or the one that comes closest.

    Args:
        task: the dense model, its data, and how channels are chosen.
        targets: whose limits count.
        rounds: each one estimates everything again around the model of the round before, retrained where
            that is wanted; limits on costs are approached in equal factors.
        retraining: what follows each round, if anything.

    Returns:
        The model, what retraining did after each round, and notes for the reader.
    """
    limits = task.costs.limits(targets)
    first = lossless(task)
    let_go(task.calibrated.dense.model)
    notes = (first.note,) if first.note else ()
    best = first.attempt
    if targets.lossless:
        return best or unchanged(task), (), notes
    if best is not None and retraining is None and _enough(best, targets, limits):
        return best, (), notes
    task = replace(task, start=first.tensors)
    part: Round | None = None
    runs: list[Trained] = []
    for number in range(1, rounds + 1):
        last = number == rounds
        part = Round.of(task, best, None if part is None else part.dense_evidence, last)
        if limits:
            whole = {name: task.costs.whole(TARGETS[name]) for name in limits}
            share = number / rounds
            found = part.reach({name: whole[name] * (limits[name] / whole[name]) ** share for name in limits})
        else:
            found = _cheapest(part, targets, best)
        if retraining is not None:
            found, training = retrain_attempt(task, found, retraining, runs, targets, last)
            runs.append(training)
        best = found if limits or best is None else min(best, found, key=partial(_rank, targets=targets))
    assert best is not None
    assert part is not None
    if retraining is None:
        best = refine_attempt(task, best, targets)
    return replace(best, least=part.least(best.over(limits))), tuple(runs), notes


def _enough(attempt: ChannelAttempt, targets: Targets, limits: Mapping[str, float]) -> bool:
    """Whether an attempt meets all that is asked for, and as little as possible is not."""
    return bool(limits) and not attempt.over(limits) and attempt.strain(targets) <= 1


def _cheapest(part: Round, targets: Targets, before: ChannelAttempt | None) -> ChannelAttempt:
    """The attempt that costs least (time or multiply-accumulates) within the limits on error and drop.

    The damping that the first one chooses for each layer serves all.
    ``before`` is one that the round measured around.
    """
    cost = (targets.least or (MACS if part.whole(MACS) else PARAMS)).name
    tried: list[ChannelAttempt] = []

    def trial(removed: float) -> tuple[float, ChannelAttempt]:
        tried.append(part.reach({cost: 1 - removed}, tried[0].damping if tried else None))
        return tried[-1].strain(targets), tried[-1]

    def predict(removed: float) -> float:
        damage = part.allocate({cost: 1 - removed}).damage
        return math.sqrt(damage) / (targets.share(ERROR) or 0.1)

    least = 0.0 if before is None else max(1 - before.costs[cost], 0.0)
    trials = part.task.calibrated.budget.effort.trials
    found = largest(trial, predict, tolerance=0.01, trials=trials, lower=least)
    if found is not None:
        return found.result
    nothing_more = unchanged(part.task) if before is None else before  # that holds, without any refit
    return min([*tried, nothing_more], key=lambda attempt: attempt.strain(targets))


def _rank(attempt: ChannelAttempt, targets: Targets) -> tuple[bool, float]:
    """Sorts attempts: those that hold by their costs, then the others by their strain."""
    strain = attempt.strain(targets)
    return (True, strain) if strain > 1 else (False, attempt.costs[(targets.least or MACS).name])
