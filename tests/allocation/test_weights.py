"""Allocation against brute force, the search against functions whose answer is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obs_onnx.allocation.curves import Curve, measure_curve, sparsity_levels
from obs_onnx.allocation.search import largest
from obs_onnx.allocation.weights import allocate

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)


def curve(size: int, scale: float, power: float) -> Curve:
    """Damage that rises steeply and is convex."""
    damages = tuple(scale * (math.exp(power * s) - 1) for s in LEVELS)
    return Curve(size, LEVELS, damages, (0.0,) * len(LEVELS))


CURVES = st.builds(curve, st.integers(2, 12), st.floats(1e-3, 10), st.floats(1, 8))


def total(curves: dict[str, Curve], counts: dict[str, int]) -> float:
    shares = {name: np.array([counts[name] / one.size]) for name, one in curves.items()}
    return sum(float(one.damage(shares[name])[0]) for name, one in curves.items())


@given(st.lists(CURVES, min_size=1, max_size=3), st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_close_to_the_best_of_all_ways(several: list[Curve], share: float) -> None:
    curves = {f"layer{number}": one for number, one in enumerate(several)}
    most = {name: one.size - 1 for name, one in curves.items()}
    budget = round(share * sum(most.values()))
    counts = allocate(curves, budget)
    assert sum(counts.values()) == budget
    assert all(0 <= counts[name] <= most[name] for name in curves)
    found = total(curves, counts)
    ways = itertools.product(*(range(most[name] + 1) for name in curves))
    best = min(total(curves, dict(zip(curves, way, strict=True))) for way in ways if sum(way) == budget)
    # one weight more or less in each layer is what rounding a layer's share can cost
    steps = [
        abs(
            total({name: one}, {name: min(counts[name] + 1, most[name])})
            - total({name: one}, {name: max(counts[name] - 1, 0)})
        )
        for name, one in curves.items()
    ]
    assert best <= found * (1 + 1e-9)
    assert found <= best + sum(steps) + 1e-12


@given(st.lists(CURVES, min_size=1, max_size=4), st.integers(0, 60))
@settings(max_examples=100, deadline=None)
def test_budgets_are_met_exactly_up_to_all_but_one_weight(several: list[Curve], budget: int) -> None:
    curves = {f"layer{number}": one for number, one in enumerate(several)}
    most = sum(one.size - 1 for one in several)
    counts, more = allocate(curves, budget), allocate(curves, budget + 1)
    assert sum(counts.values()) == min(budget, most)
    assert sum(more.values()) == min(budget + 1, most)
    assert all(more[name] >= counts[name] - 1 for name in curves)


def test_the_sensitive_layer_keeps_more() -> None:
    curves = {"tough": curve(100, 0.01, 4), "tender": curve(100, 1, 4)}
    counts = allocate(curves, 100)
    assert counts["tough"] > counts["tender"] > 0
    assert allocate({}, 10) == {}
    assert allocate(curves, 0) == {"tough": 0, "tender": 0}


def test_equal_layers_share_equally() -> None:
    counts = allocate({"a": curve(1000, 1, 5), "b": curve(3000, 3, 5)}, 2000)
    assert counts["a"] == pytest.approx(500, abs=40)


@given(CURVES)
def test_a_curve_never_falls_and_goes_through_its_points(one: Curve) -> None:
    shares = np.linspace(0, 1, 101)
    damages = one.damage(shares)
    assert damages[0] == 0
    assert np.isfinite(damages).all()
    assert (np.diff(damages) >= -1e-12 * damages.max()).all()
    np.testing.assert_allclose(one.damage(np.array(LEVELS)), one.damages, rtol=1e-9)


def test_a_noisy_curve_never_falls() -> None:
    noisy = Curve(50, LEVELS, (0.2, 0.1, 0.0, 0.4, 0.3), (0.0,) * 5)
    assert (np.diff(noisy.damage(np.linspace(0, 1, 301))) >= -1e-12).all()
    silent = Curve(50, LEVELS, (0.0,) * 5, (0.0,) * 5)
    assert allocate({"noisy": noisy, "silent": silent}, 40) == {"noisy": 0, "silent": 40}


@pytest.mark.parametrize("target", [0.01, 0.5, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("count", [2, 5, 9])
def test_levels_rise_around_the_target(target: float, count: int) -> None:
    levels = sparsity_levels(target, count)
    assert len(levels) == count
    assert all(a < b for a, b in itertools.pairwise(levels))
    assert levels[0] > 0
    assert levels[-1] < 1
    assert levels[0] <= 0.5 or levels[0] < target < levels[-1]


def test_levels_are_added_at_the_bend() -> None:
    calls: list[list[float]] = []

    def measure(levels):
        calls.append(list(levels))
        return [(1e-6 if s < 0.8 else 1e3 * (s - 0.8) + 1e-6, s / 2) for s in levels]

    found = measure_curve(1000, LEVELS, 3, measure)
    assert calls[0] == list(LEVELS)
    added = [level for (level,) in calls[1:]]
    assert 1 <= len(added) <= 3
    assert all(0.5 < level < 0.9 for level in added)
    assert found.sparsities == tuple(sorted({*LEVELS, *added}))
    assert found.errors == tuple(s / 2 for s in found.sparsities)
    calls.clear()
    measure_curve(
        1000, LEVELS, 3, lambda levels: [(calls.append([s]), (1 - s) ** -2.0, 0.0)[1:] for s in levels]
    )
    assert len(calls) == len(LEVELS)  # a straight line in logarithms needs no more


class Search:
    """A function to search, and what it was asked."""

    def __init__(self, strain) -> None:
        self.strain, self.asked = strain, []

    def __call__(self, sparsity: float):
        assert 0 <= sparsity <= 0.999
        self.asked.append(sparsity)
        return self.strain(sparsity), sparsity


@given(
    limit=st.floats(0.2, 0.98),
    steep=st.floats(1, 12),
    bias=st.floats(0.3, 3),
    noise=st.floats(0, 0.05),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_what_is_found_holds(limit: float, steep: float, bias: float, noise: float, seed: int) -> None:
    def expected(s: float) -> float:
        return math.exp(steep * (s - limit))

    strains: dict[float, float] = {}

    def noisy(s: float) -> float:
        strains[s] = expected(s) * math.exp(noise * math.sin(1e4 * s + seed))
        return strains[s]

    search = Search(noisy)
    found = largest(search, lambda s: bias * expected(s), tolerance=0.01, trials=8)
    assert 1 <= len(search.asked) <= 8
    held = [s for s, strain in strains.items() if strain <= 1]
    if found is None:
        assert not held
    else:
        assert found.sparsity == found.result == max(held)
        if noise == 0:
            assert found.sparsity >= limit - 0.05


@pytest.mark.parametrize("limit", [0.3, 0.6, 0.9, 0.97])
def test_a_good_prediction_needs_few_trials(limit: float) -> None:
    search = Search(lambda s: math.exp(8 * (s - limit)))
    found = largest(search, search.strain, tolerance=0.01, trials=6)
    assert found is not None
    assert limit - 0.01 <= found.sparsity <= limit
    assert len(search.asked) <= 3


def test_nothing_or_everything_holds() -> None:
    never = Search(lambda s: 2 + s)
    assert largest(never, lambda s: s, tolerance=0.01, trials=5) is None
    assert len(never.asked) == 5
    always = Search(lambda s: 0.0)
    found = largest(always, lambda s: 0.0, tolerance=0.01, trials=5)
    assert found is not None
    assert found.sparsity == pytest.approx(0.999)
    assert len(always.asked) == 1


def test_a_failed_trial_is_never_returned() -> None:
    cliff = Search(lambda s: 0.5 if s < 0.63 else 50.0)
    found = largest(cliff, lambda s: s, tolerance=0.01, trials=12)
    assert found is not None
    assert 0.55 < found.sparsity < 0.63
