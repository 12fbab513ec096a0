"""Damage curves: never falling, through their points, more points at the bend."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from obs_onnx.allocation.curves import Curve, measure_curve, sparsity_levels

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)


def curve(size: int, scale: float, power: float) -> Curve:
    """Damage that rises steeply and is convex."""
    damages = tuple(scale * (math.exp(power * s) - 1) for s in LEVELS)
    return Curve(size, LEVELS, damages, (0.0,) * len(LEVELS))


CURVES = st.builds(curve, st.integers(2, 12), st.floats(1e-3, 10), st.floats(1, 8))


@given(CURVES)
def test_a_curve_never_falls_and_goes_through_its_points(one: Curve) -> None:
    shares = np.linspace(0, 1, 101)
    damages = one.damage(shares)
    assert damages[0] == 0
    assert np.isfinite(damages).all()
    assert (np.diff(damages) >= -1e-12 * damages.max()).all()
    np.testing.assert_allclose(one.damage(np.array(LEVELS)), one.damages, rtol=1e-9)


@pytest.mark.parametrize("free", [1, 3, 5])
def test_nothing_is_free_but_what_was_measured_to_be(free: int) -> None:
    damages = tuple(0.0 if i < free else 0.1 * (i + 1) for i in range(5))
    one = Curve(100, LEVELS, damages, (0.0,) * 5)
    last, following = LEVELS[free - 1], (*LEVELS, 1.0)[free]
    assert (one.damage(np.linspace(0, last, 50)) == 0).all()
    if free < 5:
        between = one.damage(np.linspace(last, following, 51)[1:])
        assert (between > 0).all()
        assert (np.diff(between) > 0).all()
        assert between[24] == pytest.approx(0.1 * (free + 1) / 4)
        np.testing.assert_allclose(one.damage(np.array(LEVELS)), damages, rtol=1e-9)
    whole = Curve(100, LEVELS, (0.0,) * 5, (0.0,) * 5, gone=2.0)
    assert whole.damage(np.array([0.95, 1.0])).tolist() == [0, 2]


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
