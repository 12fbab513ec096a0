"""The largest sparsity that still satisfies a limit, found in few expensive trials.

L-OBS (Dong et al. 2017, section 3.4) picks the highest pruning ratio before the error's inflection point by
a tolerance. Here every trial prunes the whole model and measures it; a cheap model of the error proposes
the next trial and learns from each one.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Found", "largest"]

T = TypeVar("T")

_STEPS = 2**40
_BY_MODEL = 2  # trials that go by the model of the error alone, however far off it is


@dataclass(frozen=True)
class Found(Generic[T]):
    """Outcome of a search: the sparsity, and what the trial there gave."""

    sparsity: float
    result: T


def largest(
    trial: Callable[[float], tuple[float, T]],
    predict: Callable[[float], float],
    *,
    tolerance: float,
    trials: int,
    lower: float = 0.0,
    upper: float = 0.999,
) -> Found[T] | None:
    """Largest sparsity whose measured strain is at most 1.

    Args:
        trial: sparsity -> (strain, result); the strain is measured error over allowed error, rising with the
            sparsity up to noise.
        predict: sparsity -> expected strain before anything was measured; rising.
        tolerance: width of the bracket at which the search ends.
        trials: at most so many.
        lower, upper: sparsity that surely holds, and the largest one to try.

    Returns:
        The best trial that held, or None if none did.
    """
    low, high = min(lower, upper), upper
    log_low = log_high = 0.0
    best: Found[T] | None = None
    correction, failed = 1.0, False
    for number in range(trials):
        guess = _crossing(predict, (0.99 if number else 0.97) / correction, low, high)
        if best is not None and failed:
            margin = 0.15 * (high - low)
            if log_high > log_low:
                secant = low + (high - low) * (0.0 - log_low) / (log_high - log_low)
                guess = (guess + secant) / 2
            guess = min(max(guess, low + margin), high - margin)
        if best is None and number >= _BY_MODEL:  # the model of the error is no good
            guess = min(guess, low + (high - low) / (4 if number == trials - 1 else 2))
        if best is not None and not failed and guess - low < tolerance / 2:
            break
        strain, result = trial(guess)
        log_strain = math.log(max(strain, 1e-12))
        if strain <= 1:
            best, low, log_low = Found(guess, result), guess, log_strain
        else:
            failed, high, log_high = True, guess, log_strain
        if predict(guess) > 0 and strain > 0:
            correction = strain / predict(guess)
        if best is not None and high - low <= tolerance:
            break
        if best is not None and -log_low < 0.02:
            break
    return best


def _crossing(rising: Callable[[float], float], level: float, low: float, high: float) -> float:
    """The last of ``_STEPS`` equal steps from ``low`` at which a rising function is not above a level.

    Counts are whole, so the function is a staircase and may stay on one side of the level: a search in a
    sorted sequence suits that, while :func:`scipy.optimize.bisect` needs a change of sign and returns either
    side of a step.
    """
    width = (high - low) / _STEPS
    above = bisect_right(range(_STEPS), level, key=lambda step: rising(low + step * width))
    return low + max(above - 1, 0) * width
