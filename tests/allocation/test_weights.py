"""Allocation of weights against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obs_onnx.allocation.curves import Curve
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


def test_a_noisy_curve_never_falls() -> None:
    noisy = Curve(50, LEVELS, (0.2, 0.1, 0.0, 0.4, 0.3), (0.0,) * 5)
    assert (np.diff(noisy.damage(np.linspace(0, 1, 301))) >= -1e-12).all()
    silent = Curve(50, LEVELS, (0.0,) * 5, (0.0,) * 5)
    assert allocate({"noisy": noisy, "silent": silent}, 40) == {"noisy": 0, "silent": 40}
