"""Smaller models along a cost: limits in equal ratios, then more of them where the frontier has gaps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from obs_onnx.allocation.amounts import Amount
from obs_onnx.allocation.targets import TARGETS, Targets
from obs_onnx.progress import Advance
from obs_onnx.pruning.channels.attempt import ChannelAttempt
from obs_onnx.pruning.channels.round import Round
from obs_onnx.pruning.frontier.points import Candidate
from obs_onnx.results.frontier import undominated

__all__ = ["FrontierSearch", "target"]

_NEAR = 1.02  # costs that are no further apart leave no room for a model between them


@dataclass
class FrontierSearch:
    """Looks for models that nothing dominates, all from the curves and times of one round.

    Attributes:
        part: groups with their curves.
        cost: name of a target that limits a cost.
        loss: of an attempt, what is traded for the cost.
        check: checks the promises of a new attempt.
        found: candidates so far, all different.
    """

    part: Round
    cost: str
    loss: Callable[[ChannelAttempt], float]
    check: Callable[[ChannelAttempt], Candidate]
    found: list[Candidate] = field(default_factory=list, init=False)
    _spans: list[tuple[float, float]] = field(default_factory=list, init=False)

    def share(self, attempt: ChannelAttempt) -> float:
        """Cost of an attempt as a share of the dense model's."""
        return attempt.costs[self.cost] / self.part.task.costs.whole(TARGETS[self.cost])

    def share_of(self, candidate: Candidate) -> float:
        """The same of a candidate."""
        return self.share(candidate.attempt)

    def run(self, least: float, points: int, more: int, advance: Advance) -> None:
        """Make attempts.

        Args:
            least: share of the dense model's cost at which the frontier ends, if that can be reached.
            points: wanted on the frontier.
            more: attempts at most on top of so many, to fill gaps.
            advance: called with 1 after each attempt.
        """
        self._reach(least, advance)
        if not self.found:
            return
        lowest = max(min(map(self.share_of, self.found)), least)
        steps = min(points, max(int(math.log(lowest) / -math.log(_NEAR)), 1))
        for number in range(steps - 1, 0, -1):
            self._reach(lowest ** (number / steps), advance)
        for _ in range(more):
            if len(self.best()) >= points or (limit := self._gap()) is None:
                return
            self._reach(limit, advance)

    def best(self) -> list[Candidate]:
        """Candidates that neither another one nor the dense model dominates."""
        losses = [0.0, *(self.loss(one.attempt) for one in self.found)]
        shares = [(1.0,), *((self.share_of(one),) for one in self.found)]
        kept = undominated(losses, shares)[1:]
        return [one for one, good in zip(self.found, kept, strict=True) if good]

    def _reach(self, share: float, advance: Advance) -> None:
        attempt = self.part.reach(self.part.task.costs.limits(target(self.cost, share)))
        low, high = sorted((share, self.share(attempt)))
        self._spans.append((low, high))
        self.add(attempt)
        advance(1)

    def add(self, attempt: ChannelAttempt) -> None:
        """A candidate, if something is gone and it is not known."""
        known = any(_alike(attempt, one.attempt) for one in self.found)
        if not known and (attempt.left_out or not all(mask.all() for mask in attempt.keep.values())):
            self.found.append(self.check(attempt))

    def _gap(self) -> float | None:
        """The middle of the widest gap (in ratio) among the limits whose models are not known yet.

        Any limit between the one of an attempt and the cost that it reached gives the same model again.
        """
        gaps: list[tuple[float, float]] = []
        end = 0.0
        for low, high in [*sorted(self._spans), (1.0, 1.0)]:
            if 0 < end < low:
                gaps.append((low / end, math.sqrt(low * end)))
            end = max(end, high)
        ratio, middle = max(gaps, default=(0.0, 0.0))
        return middle if ratio > _NEAR**2 else None


def target(cost: str, share: float) -> Targets:
    """Such a share of the dense model's cost at most."""
    return Targets({cost: Amount(share)})


def _alike(a: ChannelAttempt, b: ChannelAttempt) -> bool:
    """Whether two attempts keep the same channels."""
    return (
        a.left_out == b.left_out
        and a.keep.keys() == b.keep.keys()
        and all((mask == b.keep[group]).all() for group, mask in a.keep.items())
    )
