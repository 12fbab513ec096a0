"""Trials of removing channels: allocate, remove, refit, measure, and find the best way within the targets."""

from __future__ import annotations

import math
from dataclasses import dataclass

from obs_onnx.allocation.search import largest
from obs_onnx.allocation.targets import Targets
from obs_onnx.pruning.channels.attempt import ChannelAttempt, ChannelStudy
from obs_onnx.pruning.channels.round import Round

__all__ = ["ChannelTrials"]

_NO_LIMIT = 2.0  # a share of the dense model's cost that it is far below, however it is measured


@dataclass(kw_only=True)
class ChannelTrials(ChannelStudy):
    """Trials of removing channels."""

    def find(self, wanted: Targets, rounds: int) -> ChannelAttempt:
        """The model that satisfies the targets with the least damage, or the one that comes closest.

        Args:
            wanted: the targets.
            rounds: each one estimates everything again around the model of the round before, retrained where
                that is wanted; limits on costs are approached in equal factors.
        """
        limits = self.limits(wanted)
        best: ChannelAttempt | None = None
        part: Round | None = None
        for number in range(1, rounds + 1):
            last = number == rounds
            part = Round.of(self, best, None if part is None else part.dense_evidence, last)
            if not limits:
                found = self.retrained(self._search(part, wanted), wanted, last)
                best = found if best is None else min(best, found, key=lambda a: _rank(a, wanted))
                continue
            step = {
                name: limit ** (number / rounds)
                if name != "size"
                else self.dense_bytes * (limit / self.dense_bytes) ** (number / rounds)
                for name, limit in limits.items()
            }
            best = self.retrained(part.reach(step), wanted, last)
        assert best is not None
        return best

    def _search(self, part: Round, wanted: Targets) -> ChannelAttempt:
        """The attempt that costs least (time or multiply-accumulates) within the limits on error and drop."""
        cost = "latency" if wanted.fastest else "macs" if part.costs.macs.value({}) else "params"
        tried: list[ChannelAttempt] = []

        def trial(removed: float) -> tuple[float, ChannelAttempt]:
            tried.append(part.reach({cost: 1 - removed}))
            return tried[-1].strain(wanted), tried[-1]

        def predict(removed: float) -> float:
            damage = part.allocate({cost: 1 - removed}).damage
            return math.sqrt(damage) / (wanted.error or 0.1)

        found = largest(trial, predict, tolerance=0.01, trials=self.effort.trials)
        if found is not None:
            return found.result
        tried.append(part.reach({cost: _NO_LIMIT}))  # nothing goes: that holds, unless refitting breaks it
        return min(tried, key=lambda attempt: attempt.strain(wanted))


def _rank(attempt: ChannelAttempt, wanted: Targets) -> tuple[bool, float]:
    """Sorts attempts: those that hold by their costs, then the others by their strain."""
    strain = attempt.strain(wanted)
    return (True, strain) if strain > 1 else (False, attempt.costs["macs"])
