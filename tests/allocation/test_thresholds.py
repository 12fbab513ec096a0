"""One threshold for all scores against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.allocation.curves import Curve
from obs_onnx.allocation.thresholds import ScoreCurve, score_curves, threshold_channels, threshold_weights
from obs_onnx.passes.costs.polynomials import Polynomial
from obs_onnx.passes.errors import DataError
from obs_onnx.solvers import Pattern
from obs_onnx.solvers.patterns import pooled, project

FULL = {0: 6, 1: 8, 2: 5}


def curves(seed: int, negative: bool = False) -> dict[int, ScoreCurve]:
    rng = np.random.default_rng(seed)
    low = -1.0 if negative else 0.0
    return {group: ScoreCurve.of(np.sort(rng.uniform(low, 1, n))) for group, n in FULL.items()}


def test_a_curve_sums_its_scores() -> None:
    curve = ScoreCurve.of(np.array([1.0, 2, 4, 8]))
    np.testing.assert_allclose(curve.damage(np.array([0, 0.25, 0.5, 1])), [0, 1, 3, 15])
    negative = ScoreCurve.of(np.array([-3.0, 1, 1, 2]))
    np.testing.assert_allclose(negative.damage(np.arange(5) / 4), [0, 0, 0, 0, 1])


@pytest.mark.parametrize("seed", range(5))
def test_weights_are_the_lowest_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = {name: rng.integers(0, 9, size).astype(float) for name, size in (("a", 5), ("b", 12), ("c", 30))}
    found = {name: ScoreCurve.of(np.sort(values)) for name, values in scores.items()}
    pool = np.sort(np.concatenate([curve.scores[:-1] for curve in found.values()]))
    for budget in range(len(pool) + 1):
        counts = threshold_weights(found, budget)
        assert sum(counts.values()) == budget
        gone = np.concatenate([found[name].scores[:count] for name, count in counts.items()])
        assert gone.sum() == pool[:budget].sum()
    assert threshold_weights(found, 1000) == {"a": 4, "b": 11, "c": 29}
    assert threshold_weights(found, -3) == {"a": 0, "b": 0, "c": 0}


def test_equal_scores_go_in_equal_shares() -> None:
    """Nothing says that the first layer is worth less than the last one."""
    found = {name: ScoreCurve.of(np.zeros(size + 1)) for name, size in (("a", 10), ("b", 30), ("c", 60))}
    assert threshold_weights(found, 50) == {"a": 5, "b": 15, "c": 30}
    equal = {group: ScoreCurve.of(np.ones(n)) for group, n in FULL.items()}
    cost = Polynomial({((group, 1),): 1 for group in FULL}, FULL)
    assert threshold_channels(equal, [(cost, 0.6 * cost.value({}))]).kept == {0: 3, 1: 5, 2: 3}


def test_scores_that_are_no_numbers() -> None:
    with pytest.raises(DataError, match="scores of b are not finite"):
        score_curves({"a": np.ones((1, 1, 2)), "b": np.array([[[1.0, np.nan]]])}, Pattern(), False)


def test_layers_are_made_comparable_only_when_asked() -> None:
    scores = {"big": np.full((1, 2, 3), 100.0), "small": np.arange(1.0, 7).reshape(1, 2, 3)}
    raw = score_curves(scores, Pattern(), normalize=False)
    assert threshold_weights(raw, 5) == {"big": 0, "small": 5}
    equal = score_curves(scores, Pattern(), normalize=True)
    assert threshold_weights(equal, 5) == {"big": 2, "small": 3}  # 1, 2, 3 of norm 9.5 are below 1 / sqrt(6)
    assert sum(curve.damage(np.ones(1))[0] for curve in equal.values()) == pytest.approx(1)


def test_blocks_share_their_scores() -> None:
    scores = np.arange(24.0).reshape(2, 3, 4)
    pattern = Pattern("block", 2, 3)
    shared = pooled(scores, pattern)
    assert shared[0, 0, 0] == scores[0, :2, :3].mean()
    assert shared[1, 2, 3] == scores[1, 2, 3]
    mask = project(scores, 0.5, pattern)
    assert shared[~mask].max() < shared[mask].min()


class TestChannels:
    cost = Polynomial({((0, 1),): 3, ((0, 1), (1, 1)): 2}, FULL)  # nothing depends on the last group

    def one_by_one(self, found: dict[int, ScoreCurve], limit: float) -> dict[int, int]:
        kept = dict(FULL)
        while self.cost.value(kept) > limit:
            group = min((g for g in (0, 1) if kept[g] > 1), key=lambda g: found[g].scores[FULL[g] - kept[g]])
            kept[group] -= 1
        return kept

    @pytest.mark.parametrize("seed", range(6))
    def test_the_lowest_go_until_the_limit_holds(self, seed: int) -> None:
        found = curves(seed, negative=seed % 2 == 1)
        for share in (0.9, 0.5, 0.2):
            limit = share * self.cost.value({})
            allocation = threshold_channels(found, [(self.cost, limit)])
            assert allocation.met
            assert allocation.kept == self.one_by_one(found, limit)
            assert allocation.kept[2] == FULL[2]

    def test_steps_of_several_channels(self) -> None:
        found = {0: ScoreCurve.of(np.array([0.0, 9, 9, 9, 9, 9])), 1: ScoreCurve.of(np.arange(1.0, 9))}
        limit = 0.9 * self.cost.value({})
        assert threshold_channels(found, [(self.cost, limit)], 2).kept == {0: 6, 1: 6}
        assert threshold_channels(found, [(self.cost, limit)], {0: 1, 1: 2}).kept == {0: 5, 1: 8}

    def test_a_limit_out_of_reach(self) -> None:
        allocation = threshold_channels(curves(0), [(self.cost, 1.0)])
        assert not allocation.met
        assert allocation.kept == {0: 1, 1: 1, 2: 5}

    def test_several_limits(self) -> None:
        found, other = curves(3), Polynomial({((2, 1),): 1}, FULL)
        allocation = threshold_channels(found, [(self.cost, 0.8 * self.cost.value({})), (other, 3.0)])
        assert allocation.met
        assert allocation.kept[2] <= 3

    def test_measured_curves_have_no_scores(self) -> None:
        with pytest.raises(TypeError, match="measured"):
            threshold_channels({0: Curve(6, (0.5,), (1.0,), (0.0,))}, [(self.cost, 1.0)])
