"""Where an allocation of channels stands: the kept count of each group, and what others would change.

The levels of all groups (the counts they may keep) lie one after the other in flat arrays, so that choosing
among all steps of all groups is one operation. After a move only coupled groups are asked for savings again.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from obs_onnx.allocation.curves import Curve
from obs_onnx.passes.costs.model_costs import Cost

__all__ = ["Problem", "State"]


@dataclass(frozen=True, eq=False)
class Problem:
    """Everything that stays; the levels of all groups lie one after the other in flat arrays.

    Attributes:
        groups: ids, in the order of ``spans``.
        spans: of each group in the flat arrays; the last level of a group is its largest.
        kept: flat, channels kept.
        damages: flat.
        owner: flat, number of the group.
        costs, limits: what must hold.
        coupled: for each cost and group, the groups whose savings change with it.
    """

    groups: list[int]
    spans: list[slice]
    kept: NDArray[np.int64]
    damages: NDArray[np.float64]
    owner: NDArray[np.intp]
    costs: list[Cost]
    limits: NDArray[np.float64]
    coupled: list[list[list[int]]]

    @classmethod
    def of(
        cls,
        curves: Mapping[int, Curve],
        levels: Mapping[int, NDArray[np.int64]],
        limits: Sequence[tuple[Cost, float]],
    ) -> Problem:
        """Groups with these curves, each to be at one of its ``levels``, rising."""
        groups = list(levels)
        ends = np.cumsum([0, *(len(levels[group]) for group in groups)])
        spans = [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]
        number = {group: i for i, group in enumerate(groups)}
        damages = [curves[group].damage(1 - levels[group] / curves[group].size) for group in groups]
        return cls(
            groups,
            spans,
            np.concatenate([np.zeros(0, np.int64), *levels.values()]),
            np.concatenate([np.zeros(0), *damages]),
            np.repeat(np.arange(len(groups)), np.diff(ends)),
            [cost for cost, _ in limits],
            np.array([limit for _, limit in limits], np.float64),
            [
                [
                    sorted(number[other] for other in cost.coupled(group) | {group} if other in number)
                    for group in groups
                ]
                for cost, _ in limits
            ],
        )

    def start(self, counts: Mapping[int, int] | None = None) -> State:
        """At the given counts, which are levels; without, at the largest ones."""
        at = np.array([span.stop - 1 for span in self.spans], np.intp)
        for i, span in enumerate(self.spans if counts else ()):
            at[i] = span.start + np.searchsorted(self.kept[span], (counts or {})[self.groups[i]])
        state = State(self, at, np.zeros(len(self.limits)), np.zeros((len(self.limits), len(self.kept))))
        for j, cost in enumerate(self.costs):
            state.values[j] = cost.value(state.counts)
            for group in range(len(self.groups)):
                state.refresh(j, group)
        return state


@dataclass(eq=False)
class State:
    """Where one stands.

    Attributes:
        at: level of each group, as a place in the flat arrays.
        values: of the costs.
        savings: (costs, flat) what each cost saves when one group alone goes to another level.
        counts: kept channels by group id.
    """

    problem: Problem
    at: NDArray[np.intp]
    values: NDArray[np.float64]
    savings: NDArray[np.float64]
    counts: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = dict(zip(self.problem.groups, self.problem.kept[self.at].tolist(), strict=True))

    def copy(self) -> State:
        """The same place, to go on from."""
        return State(self.problem, self.at.copy(), self.values.copy(), self.savings.copy())

    @property
    def damage(self) -> float:
        """Summed over the groups."""
        return float(self.problem.damages[self.at].sum())

    def refresh(self, cost: int, group: int) -> None:
        """Savings of a group, after the counts have changed."""
        problem, span = self.problem, self.problem.spans[group]
        self.savings[cost, span] = problem.costs[cost].saving(
            self.counts, problem.groups[group], problem.kept[span]
        )

    def move(self, place: int) -> None:
        """Bring the owner of a level to it."""
        problem = self.problem
        group, kept = int(problem.owner[place]), problem.kept[place : place + 1]
        for j, cost in enumerate(problem.costs):
            self.values[j] -= cost.saving(self.counts, problem.groups[group], kept)[0]
        self.at[group] = place
        self.counts[problem.groups[group]] = int(problem.kept[place])
        for j, coupled in enumerate(problem.coupled):
            for other in coupled[group]:
                self.refresh(j, other)

    def steps(self) -> NDArray[np.intp]:
        """For each level, how many levels it is above where its group stands."""
        return np.arange(len(self.problem.kept)) - self.at[self.problem.owner]

    def extra(self) -> NDArray[np.float64]:
        """For each level, the damage that moving there adds."""
        return np.asarray(self.problem.damages - self.problem.damages[self.at][self.problem.owner])
