"""How many channels each group keeps, so that all limits on costs hold and the output suffers least.

Each group has a curve: damage to the output when so many of its channels are gone, all other groups dense.
Damages nearly add up; costs do not (a layer costs its inputs times its outputs), so that what a step saves is
always taken where one stands:

1. *Descend.* Take the step, of any group to any lower count, with the least damage per cost saved, until
   every limit holds. Savings are measured in shares of what each cost is over its limit, and count at most
   that much.
2. *Fill.* Give channels back for the largest relief per cost, while all limits hold.
3. *Exchange.* Move one group up or down, descend or fill with the others, and keep what is better.

Wide groups do so with a few dozen of their levels first, and then with all levels around the best of these.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from obs_onnx.allocation.channel_state import Problem, State
from obs_onnx.allocation.curves import Curve
from obs_onnx.passes.costs.model_costs import Cost

__all__ = ["Allocation", "Quantum", "admissible", "allocate_channels"]

Quantum = int | Sequence[int]
"""Kept counts of a group are multiples of it, or one of these."""

_LEVELS = 32  # of each group at first
_ROUNDS, _GAIN = 8, 1e-3  # the exchange ends after so many rounds, or one that gains less than this share
_REACH, _TRIALS = 3, 300  # levels that a group moves in the exchange, fewer where a round would be longer


@dataclass(frozen=True)
class Allocation:
    """Outcome of an allocation.

    Attributes:
        kept: channels that each group with a curve keeps.
        met: whether all limits hold.
        damage: expected, summed over the groups.
    """

    kept: dict[int, int]
    met: bool
    damage: float


def admissible(n: int, quantum: Quantum, whole: bool = True) -> NDArray[np.int64]:
    """Counts that a group of ``n`` channels may keep, rising.

    Multiples of ``quantum`` or the counts that it lists, and ``n`` itself: a group may stay as it is. It has
    to where there is nothing else, and may not otherwise where ``whole`` is False.

    Raises:
        ValueError: a quantum or count below 1.
    """
    if not isinstance(quantum, int):
        counts = np.unique(np.array(quantum, np.int64))
        if (counts < 1).any():
            raise ValueError(f"a group cannot keep {counts[0]} channels")
        counts = counts[counts < n]
    elif quantum < 1:
        raise ValueError(f"kept counts cannot be multiples of {quantum}")
    else:
        counts = np.arange(quantum, n, quantum, dtype=np.int64)
    return np.append(counts, n) if whole or not len(counts) else counts


def allocate_channels(
    curves: Mapping[int, Curve],
    limits: Sequence[tuple[Cost, float]],
    quantum: int | Mapping[int, Quantum] = 1,
    reduced: Collection[int] = (),
) -> Allocation:
    """Choose how many channels each group keeps.

    Args:
        curves: of the groups that may lose channels; their size is the number of channels.
        limits: costs, and what each may be at most; all must hold.
        quantum: which counts may be kept (see :func:`admissible`), for all groups or for each.
        reduced: groups that may not stay whole.

    Returns:
        The same for the same arguments. Where the limits cannot be met, every group that lowers a cost over
        its limit is as small as it may be.
    """
    levels = {
        group: admissible(
            curve.size,
            quantum if isinstance(quantum, int) else quantum.get(group, 1),
            group not in reduced,
        )
        for group, curve in sorted(curves.items())
    }
    for group, curve in curves.items():
        if curve.gone is not None:
            levels[group] = np.append(0, levels[group])
    coarse = {group: _thinned(counts) for group, counts in levels.items()}
    state = Problem.of(curves, coarse, limits).start()
    if not _descend(state):
        return Allocation(state.counts, False, state.damage)
    _fill(state)
    state = _exchange(state)
    fine = {group: _around(state.counts[group], coarse[group], counts) for group, counts in levels.items()}
    if any(len(fine[group]) > len(coarse[group]) for group in fine):
        state = Problem.of(curves, fine, limits).start(state.counts)
        _fill(state)
        state = _exchange(state)
    return Allocation(state.counts, True, state.damage)


def _thinned(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Evenly spaced ones, the first and the last included."""
    return np.unique(counts[np.linspace(0, len(counts) - 1, min(len(counts), _LEVELS)).round().astype(int)])


def _around(now: int, coarse: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The coarse counts, and all between the neighbours of the present one."""
    place = int(np.searchsorted(coarse, now))
    low, high = coarse[max(place - 1, 0)], coarse[min(place + 1, len(coarse) - 1)]
    return np.union1d(coarse, counts[(counts >= low) & (counts <= high)])


def _descend(state: State, locked: int | None = None) -> bool:
    """Remove channels until every limit holds; False where that is impossible. ``locked`` stays."""
    limits = state.problem.limits
    slack = 1e-12 * np.abs(limits)
    while (over := state.values - limits > slack).any():
        excess = (state.values - limits)[over][:, None]
        gain = np.clip(state.savings[over] / excess, 0, 1).sum(0)
        allowed = (state.steps() < 0) & (gain > 0)
        if locked is not None:
            allowed[state.problem.spans[locked]] = False
        places = np.flatnonzero(allowed)
        if not len(places):
            return False
        rates = np.maximum(state.extra()[places], 0) / gain[places]
        best = places[rates <= rates.min() * (1 + 1e-12)]
        state.move(int(best[np.argmax(gain[best])]))
    return True


def _fill(state: State, locked: int | None = None) -> None:
    """Give channels back while every limit holds. ``locked`` stays."""
    limits = state.problem.limits
    while True:
        room = np.maximum(limits - state.values, 0)[:, None]
        price = -state.savings
        allowed = (state.steps() > 0) & (price <= room * (1 + 1e-12)).all(0) & (state.extra() < 0)
        if locked is not None:
            allowed[state.problem.spans[locked]] = False
        places = np.flatnonzero(allowed)
        if not len(places):
            return
        share = (np.maximum(price[:, places], 0) / np.maximum(room, 1e-300)).max(0)
        state.move(int(places[np.argmax(-state.extra()[places] / (share + 1e-9))]))


def _exchange(state: State) -> State:
    """Local search from a state in which all limits hold."""
    problem = state.problem
    reach = min(max(_TRIALS // (2 * len(problem.groups) or 1), 1), _REACH)
    for _ in range(_ROUNDS):
        before = state.damage
        for group, span in enumerate(problem.spans):
            here = int(state.at[group])
            for place in range(max(here - reach, span.start), min(here + reach + 1, span.stop)):
                if place == int(state.at[group]):
                    continue
                other = state.copy()
                other.move(place)
                if _descend(other, group):
                    _fill(other, group)
                    if other.damage < state.damage * (1 - 1e-9):
                        state = other
        if state.damage >= before * (1 - _GAIN):
            break
    return state
