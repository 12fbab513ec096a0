"""Targets that hold for the model in integers: what to ask of the float model is found in a few turns.

Pruning looks at the float model. What quantization does to the dense one says where to begin. Then the pruned
model is quantized and measured; of what is over its limit less is asked for, along the line through this
point and the one before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from obs_onnx.allocation.amounts import Amount, Unit
from obs_onnx.allocation.targets import DROP, ERROR, LATENCY, SIZE, Target, Targets
from obs_onnx.evaluation.measures.metric import ACCURACY, Metric
from obs_onnx.results.pruning import Combination, Missed

__all__ = ["ON_QUANTIZED", "Turn", "on_integers"]

T = TypeVar("T")

ON_QUANTIZED = (SIZE, LATENCY, ERROR, DROP)
"""Targets that can be measured on both models; all others are those of the float one."""

_COSTS = (SIZE.name, LATENCY.name)
_TURNS = 3
_CLOSER = 0.98  # than what was asked for
_LEAST, _MOST = 0.1, 0.999  # of what was asked for, and of the dense model's cost
_NOISE = 1 + 1e-9


@dataclass(frozen=True)
class Turn(Generic[T]):
    """A pruned model and what it is in integers.

    Attributes:
        found: what pruning gave.
        targets: that it was pruned to.
        reached: what is reached in integers, by name of the target, as shares of the dense float model.
        missed: targets that do not hold in integers.
    """

    found: T
    targets: Targets
    reached: Mapping[str, float]
    missed: tuple[Missed, ...]


def on_integers(
    asked: Targets,
    metric: Metric,
    dense: tuple[Combination, Combination],
    prune: Callable[[Targets], T],
    measure: Callable[[T], tuple[Combination, Combination]],
) -> Turn[T]:
    """The first pruned model that holds its targets in integers, or the last one that was tried.

    Args:
        asked: of the model in integers.
        metric: on labelled data.
        dense: the dense model, of float and in integers, measured.
        prune: to targets of the float model.
        measure: the dense float model and a pruned one in integers.
    """
    limits = _limits(asked, dense[0])
    before = _reached(metric, *dense)
    inner = _first(limits, before)
    last = {name: 1.0 if name in _COSTS else 0.0 for name in inner}
    turn: Turn[T] | None = None
    for _ in range(_TURNS):
        found = prune(_with(asked, inner))
        reached = _reached(metric, *measure(found))
        turn = Turn(found, _with(asked, inner), reached, _missed(asked, limits, reached))
        if not turn.missed:
            break
        points = {
            name: ((last[name], before[name]), (inner[name], reached[name]))
            for name in inner
            if name in before and name in reached
        }
        last, before = inner, reached
        inner = {**inner, **{name: _next(limits[name], *pair) for name, pair in points.items()}}
    assert turn is not None
    return turn


def _reached(metric: Metric, dense: Combination, integers: Combination) -> dict[str, float]:
    """What a model in integers costs and loses against the dense float one, as far as it was measured."""
    found = {SIZE.name: integers.file_bytes / max(dense.file_bytes, 1)}
    if dense.latency_ms is not None and integers.latency_ms is not None:
        found[LATENCY.name] = integers.latency_ms.median / dense.latency_ms.median
    if integers.output_error is not None:
        found[ERROR.name] = integers.output_error
    pair = [one.accuracy if metric is ACCURACY else one.metric for one in (dense, integers)]
    if pair[0] is not None and pair[1] is not None:
        found[DROP.name] = metric.lost(pair[0], pair[1])
    return found


def _missed(asked: Targets, limits: Mapping[str, float], reached: Mapping[str, float]) -> tuple[Missed, ...]:
    """Targets that do not hold in integers."""
    return tuple(
        Missed(
            name,
            asked.amounts[name].plain,
            reached.get(name, "nothing measured"),
            advice="measured on the model in integers, relative to the dense float one: allow more",
        )
        for name, limit in limits.items()
        if not reached.get(name, math.inf) <= limit * _NOISE
    )


def _limits(asked: Targets, dense: Combination) -> dict[str, float]:
    """What is asked for of the model in integers, as shares of the dense float one."""
    whole: dict[Target, float] = {SIZE: float(dense.file_bytes)}
    if dense.latency_ms is not None:
        whole[LATENCY] = dense.latency_ms.median
    found = {}
    for one, amount in asked:
        if one in ON_QUANTIZED and amount.unit is not Unit.LEAST:
            found[one.name] = (
                amount.value if amount.unit is Unit.SHARE else amount.value / whole.get(one, 1.0)
            )
    return found


def _first(limits: Mapping[str, float], dense: Mapping[str, float]) -> dict[str, float]:
    """What to ask of the float model, if quantization does to it what it does to the dense one."""
    found = {}
    for name, limit in limits.items():
        own = dense.get(name, 0.0)
        if name in _COSTS:
            found[name] = min(limit / own if own > 0 else limit, _MOST)
        elif name == ERROR.name:
            found[name] = math.sqrt(max(limit**2 - own**2, (_LEAST * limit) ** 2))
        else:
            found[name] = max(limit - own, _LEAST * limit)
    return found


def _next(limit: float, before: tuple[float, float], now: tuple[float, float]) -> float:
    """What to ask for next, of points of what was asked of the float model and reached in integers."""
    asked, reached = now
    if reached <= limit * _NOISE:
        return asked
    rise = (asked - before[0]) / (reached - before[1]) if reached != before[1] else 0.0
    wanted = asked + (_CLOSER * limit - reached) * rise if rise > 0 else asked * _CLOSER * limit / reached
    return min(max(wanted, _LEAST * asked), _CLOSER * asked)


def _with(asked: Targets, inner: Mapping[str, float]) -> Targets:
    targets = asked
    for one in ON_QUANTIZED:
        if one.name in inner:
            targets = targets.also(one, Amount(inner[one.name]))
    return targets
