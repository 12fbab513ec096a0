"""Lags and cells against the second moment of an explicit unfolding."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from obs_onnx.calibration.convolution_lags import cell_product, lag_plan, moved
from obs_onnx.calibration.unfold import Axis


@st.composite
def axes(draw: st.DrawFn) -> Axis:
    """Axes of convolutions with stride one, and of transposed ones."""
    size, out, up = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.sampled_from([1, 1, 2, 3]))
    starts = tuple(sorted(draw(st.sets(st.integers(-2, 4), min_size=1, max_size=3))))
    return Axis(size, out, starts, 1, up)


def unfolded(x: np.ndarray, both: tuple[Axis, Axis]) -> np.ndarray:
    """(offsets, channels, positions): what each kernel offset meets, zeros included."""
    first, second = both
    offsets = list(itertools.product(first.starts, second.starts))
    found = np.zeros((len(offsets), x.shape[0], first.out, second.out))
    for number, (s, t) in enumerate(offsets):
        for o, p in np.ndindex(first.out, second.out):
            row, column = s + o, t + p
            inside = row % first.up == 0 == column % second.up
            row, column = row // first.up, column // second.up
            if inside and 0 <= row < first.size and 0 <= column < second.size:
                found[number, :, o, p] = x[:, row, column]
    return found.reshape(len(offsets), x.shape[0], -1)


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(axes(), axes())
def test_cells_add_up_to_the_moment_of_the_unfolded_input(first: Axis, second: Axis) -> None:
    x = np.random.default_rng(0).standard_normal((2, first.size, second.size))
    offsets = unfolded(x, (first, second))
    expected = np.einsum("kcp,ldp->klcd", offsets, offsets)
    found = np.zeros_like(expected)
    seen = np.zeros(found.shape[:2], int)
    for lag in lag_plan((first, second)):
        for cell, pairs in zip(lag.cells, lag.pairs, strict=True):
            there = moved(cell, lag.shift)
            product = np.einsum("cij,dij->cd", x[:, cell[0], cell[1]], x[:, there[0], there[1]])
            for k, e in pairs:
                found[k, e] += product
        for k, e in {pair for pairs in lag.pairs for pair in pairs}:
            seen[k, e] += 1
    for k, e in np.ndindex(*seen.shape):
        if seen[k, e]:
            np.testing.assert_allclose(found[k, e], expected[k, e], rtol=1e-10, atol=1e-12)
        elif not seen[e, k]:  # neither: nothing meets at both offsets
            np.testing.assert_array_equal(expected[k, e], 0)


def test_half_of_the_lags_are_enough() -> None:
    axis = Axis(8, 8, (-1, 0, 1))
    plan = lag_plan((axis, axis))
    assert len(plan) == (5 * 5 + 1) // 2
    assert all(lag.shift >= (0, 0) for lag in plan)


@pytest.mark.parametrize(("groups", "rows", "columns"), [(1, 1, 1), (3, 1, 1), (1, 2, 4), (3, 2, 4)])
def test_products_of_cells(groups: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((groups, rows, 5, 6, 7)), rng.standard_normal((groups, columns, 5, 6, 7))
    here, there = (slice(0, 3), slice(1, 4)), (slice(2, 5), slice(0, 3))
    expected = np.einsum("gcxyn,gdxyn->gcd", a[:, :, 0:3, 1:4], b[:, :, 2:5, 0:3])
    np.testing.assert_allclose(cell_product(a, b, here, there), expected, rtol=1e-10)
