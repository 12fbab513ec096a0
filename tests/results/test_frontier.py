"""Which models no other one dominates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from obs_onnx.results.frontier import undominated


class TestUndominated:
    @pytest.mark.parametrize("seed", range(20))
    def test_against_the_definition(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        losses = rng.integers(0, 6, 12).tolist()
        costs = rng.permutation(24)[:12].tolist()
        found = undominated(losses, [[cost] for cost in costs])
        for i in range(12):
            better = any(losses[j] <= losses[i] and costs[j] < costs[i] for j in range(12))
            assert found[i] == (not better)

    @pytest.mark.parametrize("seed", range(20))
    def test_two_measures_of_one_cost(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        losses, costs = rng.integers(0, 6, 12).tolist(), rng.integers(0, 9, (12, 2)).tolist()
        kept = [i for i, good in enumerate(undominated(losses, costs)) if good]
        assert min(range(12), key=lambda i: (losses[i], costs[i])) in kept
        for measure in (0, 1):
            for i in kept:
                assert not any(
                    losses[j] <= losses[i] and costs[j][measure] <= costs[i][measure] for j in kept if j != i
                )

    def test_equals_and_what_is_no_number(self) -> None:
        assert undominated([1.0, 1.0, math.inf, 2.0], [[5], [5], [1], [5]]).count(True) == 1
        assert undominated([math.nan, 1.0], [[1], [2]]) == [False, True]
