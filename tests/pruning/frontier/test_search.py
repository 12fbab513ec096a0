"""Which limits of a frontier are tried."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from obs_onnx.evaluation.quality import Evaluation
from obs_onnx.pruning.frontier.search import FrontierSearch


class _Part:
    """Stands in for a round: costs come in steps, down to a floor."""

    def __init__(self, step: float, floor: float) -> None:
        costs = SimpleNamespace(limits=lambda wanted: wanted.as_dict(), whole=lambda target: 1.0)
        self.task = SimpleNamespace(costs=costs)
        self.step, self.floor, self.asked = step, floor, []

    def reach(self, limits: Mapping[str, float]) -> SimpleNamespace:
        (share,) = limits.values()
        self.asked.append(share)
        share = max(self.floor, math.floor(share / self.step + 1e-9) * self.step)
        keep = {0: np.arange(1000) < round(1000 * share)}
        quality = Evaluation(1, output_error=1 - share)
        return SimpleNamespace(costs={"macs": share}, keep=keep, left_out=frozenset(), quality=quality)


def opened(part: _Part) -> FrontierSearch:
    """A search that takes every attempt as it is."""
    return FrontierSearch(
        part, "macs", lambda one: one.quality.output_error, lambda one: SimpleNamespace(attempt=one)
    )


def search(part: _Part, points: int, more: int, least: float = 0.2) -> list[float]:
    found = opened(part)
    found.run(least, points, more, lambda _: None)
    shares = [found.share_of(one) for one in found.found]
    assert len(set(shares)) == len(shares)
    assert sorted(shares) == sorted(map(found.share_of, found.best()))
    return sorted(shares)


class TestSearch:
    def test_limits_have_equal_ratios(self) -> None:
        part = _Part(0.001, 0.0)
        shares = search(part, 4, 0)
        assert shares == pytest.approx([0.2, 0.2**0.75, 0.2**0.5, 0.2**0.25], abs=0.002)

    def test_the_frontier_ends_where_nothing_less_is_found(self) -> None:
        part = _Part(0.001, 0.5)
        shares = search(part, 4, 0)
        assert shares == pytest.approx([0.5, 0.5**0.75, 0.5**0.5, 0.5**0.25], abs=0.002)
        assert part.asked[0] == 0.2
        assert min(part.asked[1:]) > 0.5

    def test_gaps_are_filled(self) -> None:
        coarse = _Part(0.25, 0.25)
        assert search(coarse, 3, 0) == [0.25, 0.5]
        coarse = _Part(0.25, 0.25)
        assert search(coarse, 3, 3) == [0.25, 0.5, 0.75]
        assert len(coarse.asked) == 4

    def test_it_ends_where_there_is_nothing_more(self) -> None:
        part = _Part(0.5, 0.5)
        assert search(part, 6, 50) == [0.5]
        assert len(part.asked) < 15

    def test_the_dense_model_is_no_point(self) -> None:
        part = _Part(1.0, 1.0)
        found = opened(part)
        found.run(0.2, 5, 5, lambda _: None)
        assert found.found == []
        assert len(part.asked) == 1

    def test_more_removed_and_better_dominates(self) -> None:
        part = _Part(0.001, 0.0)
        reach = part.reach

        def broken(limits: Mapping[str, float]) -> SimpleNamespace:
            attempt = reach(limits)
            bad = 0.3 < attempt.costs["macs"] < 0.5
            attempt.quality = replace(attempt.quality, output_error=2.0) if bad else attempt.quality
            return attempt

        part.reach = broken
        found = opened(part)
        found.run(0.2, 6, 3, lambda _: None)
        assert len(found.found) == 9
        assert len(found.best()) >= 6
        assert not any(0.3 < found.share_of(one) < 0.5 for one in found.best())
