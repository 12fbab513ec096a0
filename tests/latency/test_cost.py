"""LatencyCost and its fit against brute force, on times that follow from known functions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obs_onnx.latency.cost import BlockLatency, LatencyCost, Traffic, block_latency
from obs_onnx.latency.table import Whole, fit_cost
from obs_onnx.passes.costs.polynomials import Polynomial

SIZES = {0: 64, 1: 32, 2: 48, 3: 16}


def grid(groups: tuple[int, ...], levels: int = 5) -> np.ndarray:
    """All combinations of some widths, the dense ones included."""
    axes = [np.linspace(SIZES[g] / 8, SIZES[g], levels).round().astype(int) for g in groups]
    points = list(itertools.product(*axes))
    return np.array(points, np.int64).reshape(len(points), len(groups))


def block(name: str, kind: str, groups: tuple[int, ...], time) -> BlockLatency:
    points = grid(groups)
    times = np.array([time(*point) for point in points.tolist()], np.float64)
    return block_latency(name, kind, groups, tuple(SIZES[g] for g in groups), points, times)


def blocks() -> list[BlockLatency]:
    return [
        block("stem", "Conv", (0,), lambda a: 0.1 + 0.01 * a),
        block("middle", "Conv", (0, 1), lambda a, b: 0.05 + 2e-4 * a * b + 0.02 * np.ceil(b / 8)),
        block("join", "Gemm", (1, 2, 3), lambda a, b, c: 0.02 + 1e-3 * a + 2e-4 * b * c),
        block("end", "Gemm", (2,), lambda a: 0.3 + 0.1 * np.ceil(a / 16)),
        block("fixed", "Pool", (), lambda: 0.07),
    ]


def bytes_of() -> Polynomial:
    return Polynomial({(): 100.0, ((0, 1), (1, 1)): 4.0, ((1, 1), (2, 1)): 8.0, ((3, 1),): 40.0}, SIZES)


def cost() -> LatencyCost:
    traffic = Traffic(bytes_of(), np.array([0.0, 9000.0]), np.array([1e-5, 5e-5]))
    return LatencyCost(blocks(), {"Conv": 0.8, "Gemm": 1.5, "Pool": 1.0}, 0.25, traffic)


class TestBlocks:
    def test_measured_points_are_met(self) -> None:
        for groups, time in (
            ((0,), lambda a: 0.1 + np.ceil(a / 16)),
            ((0, 1), lambda a, b: 0.1 + np.ceil(a / 16) * b),
        ):
            one = block("b", "Conv", groups, time)
            for point in grid(groups).tolist():
                counts = dict(zip(groups, point, strict=True))
                assert one.at(counts) == pytest.approx(time(*point), rel=1e-12)

    def test_between_them_it_is_bilinear(self) -> None:
        one = block("b", "Conv", (0, 1), lambda a, b: 3 + 2 * a + b + 0.5 * a * b)
        for a, b in itertools.product(range(8, 65, 7), range(4, 33, 5)):
            assert one.at({0: a, 1: b}) == pytest.approx(3 + 2 * a + b + 0.5 * a * b, rel=1e-12)

    def test_beyond_them_it_is_constant(self) -> None:
        one = block("b", "Conv", (0,), lambda a: float(a))
        assert (one.at({0: 1}), one.at({})) == (8.0, 64.0)

    def test_many_groups_are_fitted(self) -> None:
        def time(a: int, b: int, c: int) -> float:
            return 0.2 + 1e-3 * a * b + 3e-4 * b * c

        one = block("b", "Conv", (0, 1, 2), time)
        for counts in ({0: 13, 1: 9, 2: 40}, {1: 30}, {}):
            values = [counts.get(group, SIZES[group]) for group in (0, 1, 2)]
            assert one.at(counts) == pytest.approx(time(*values), rel=1e-6)

    def test_a_time_of_nothing_does_not_rule_the_fit(self) -> None:
        points = grid((0, 1, 2))
        times = 0.2 + 1e-3 * points.prod(1) / 30
        times[3] = 0.0  # a disturbed measurement
        one = block_latency("b", "Conv", (0, 1, 2), (64, 32, 48), points, times)
        assert one.at({}) == pytest.approx(times[-1], rel=0.1)

    def test_pairs_that_were_not_all_measured(self) -> None:
        counts = np.stack([np.arange(1, 9), np.arange(1, 9)], axis=1)
        one = block_latency("b", "Conv", (0, 1), (8, 8), counts, 1.0 + counts[:, 0])
        for n in (1, 5, 8):
            assert one.at({0: n, 1: n}) == pytest.approx(1.0 + n, rel=1e-6)


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_saving_is_the_difference_of_values(seed: int, branches: bool) -> None:
    rng = np.random.default_rng(seed)
    model = cost().leaving_out({3: {"end", "join"}, 1: {"fixed"}}) if branches else cost()
    least = 0 if branches else 1
    counts = {g: int(rng.integers(least, n + 1)) for g, n in SIZES.items() if rng.random() < 0.7}
    for group, n in SIZES.items():
        fewer = np.append(rng.integers(least, n + 1, (2, 3)).reshape(-1), n).reshape(7)
        saved = model.saving(counts, group, fewer)
        assert saved.shape == fewer.shape
        expected = [model.value(counts) - model.value({**counts, group: int(f)}) for f in fewer]
        np.testing.assert_allclose(saved, expected, rtol=1e-9, atol=1e-9)
        assert float(model.saving(counts, group, int(fewer[0]))) == pytest.approx(expected[0], abs=1e-9)


def test_coupled_groups_are_those_whose_savings_change() -> None:
    model = cost()
    model.traffic = Traffic(bytes_of(), np.zeros(1), np.zeros(1))
    for group, other in itertools.permutations(SIZES, 2):
        few = SIZES[group] // 2
        alone = model.saving({}, group, few)
        changed = [model.saving({other: n}, group, few) for n in (1, SIZES[other] // 2)]
        if other not in model.coupled(group):
            np.testing.assert_allclose(changed, alone, rtol=1e-9)
    assert model.coupled(0) == {0, 1}
    assert model.coupled(1) == {0, 1, 2, 3}
    assert model.coupled(9) == frozenset()
    assert 3 in cost().leaving_out({3: {"end"}}).coupled(2)


def test_a_group_left_out_takes_its_blocks_along() -> None:
    model = cost()
    gone = model.leaving_out({3: {"end", "fixed"}})
    end, fixed = (next(b for b in model.blocks if b.name == name) for name in ("end", "fixed"))
    without = model.value({3: 0}) - gone.value({3: 0})
    assert without == pytest.approx(1.5 * end.at({}) + fixed.at({}))
    assert gone.value({3: 1}) == model.value({3: 1})


class TestFit:
    def wholes(self, truth: LatencyCost, count: int, noise: float = 0.0) -> tuple[list[Whole], float]:
        rng = np.random.default_rng(0)
        dense = truth.value({})
        rows = [{g: int(rng.integers(n // 8, n + 1)) for g, n in SIZES.items()} for _ in range(count)]
        wholes = [Whole(row, truth.value(row) / dense * (1 + noise * rng.standard_normal())) for row in rows]
        return [*wholes, Whole(dict(SIZES), 1.0)], dense

    def test_recovers_what_made_the_times(self) -> None:
        """The pull goes to where the truth is, and the fit is exact."""
        factors = dict.fromkeys(("Conv", "Gemm", "Pool"), 0.9)
        truth = LatencyCost(blocks(), factors, 0.0, Traffic(bytes_of(), np.zeros(1), np.zeros(1)))
        wholes, dense = self.wholes(truth, 40)
        found = fit_cost(blocks(), wholes, dense, bytes_of())
        assert found.factors == pytest.approx(factors, rel=1e-6)
        assert found.constant == pytest.approx(0, abs=1e-9)
        for one in self.wholes(truth, 60)[0][40:]:
            assert found.value(one.counts) == pytest.approx(one.ratio * dense, rel=1e-6)

    @pytest.mark.parametrize("noise", [0.0, 0.03])
    def test_predicts_with_unequal_factors_and_traffic(self, noise: float) -> None:
        wholes, dense = self.wholes(cost(), 16, noise)
        found = fit_cost(blocks(), wholes, dense, bytes_of())
        rows, _ = self.wholes(cost(), 80)
        errors = [abs(found.value(one.counts) / (one.ratio * dense) - 1) for one in rows[16:]]
        assert np.median(errors) < 0.03
        assert min(found.factors.values()) >= 0 <= found.constant
        assert (found.traffic.rates >= 0).all()

    def test_a_model_of_one_width(self) -> None:
        found = fit_cost(blocks(), [Whole(dict(SIZES), 1.0)], 3.0, bytes_of())
        assert found.value({}) == pytest.approx(3.0, rel=0.05)

    def test_without_blocks_there_is_the_constant(self) -> None:
        wholes, dense = self.wholes(cost(), 10)
        found = fit_cost([], wholes, dense, bytes_of())
        assert found.value({}) > 0
