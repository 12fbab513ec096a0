"""Sums of widths: always multiples or as they were, and close to the best of all ways."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from obs_onnx.allocation.aligned import allocate_aligned
from obs_onnx.allocation.channels import admissible, allocate_channels
from obs_onnx.allocation.curves import Curve
from obs_onnx.allocation.thresholds import ScoreCurve, threshold_channels
from obs_onnx.passes.costs.polynomials import Polynomial
from obs_onnx.passes.costs.widths import Sum, Widths

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)


def curve(n: int, scale: float) -> Curve:
    return Curve(n, LEVELS, tuple(scale * (np.exp(4 * s) - 1) for s in LEVELS), (0.0,) * len(LEVELS))


def problem(sizes: list[int], sums: list[tuple[int, ...]], multiple: int) -> tuple[Polynomial, Widths]:
    full = dict(enumerate(sizes))
    cost = Polynomial({((g, 1),): float(g + 1) for g in full}, full)
    rows = tuple(Sum(Polynomial({((g, 1),): 1 for g in own}, full), own) for own in sums)
    return cost, Widths(multiple, dict.fromkeys(full, multiple), rows)


@given(
    st.lists(st.integers(2, 40), min_size=2, max_size=4),
    st.integers(0, 10**6),
    st.sampled_from([4, 8]),
    st.floats(0.2, 0.95),
)
@settings(max_examples=80, deadline=None)
def test_all_sums_hold(sizes: list[int], seed: int, multiple: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    sums = [tuple(range(len(sizes))), (0, 1)]
    cost, widths = problem(sizes, sums, multiple)
    curves = {g: curve(n, 10 ** rng.uniform(-2, 1)) for g, n in enumerate(sizes)}
    limit = share * cost.value({})
    found = allocate_aligned(allocate_channels, curves, [(cost, limit)], widths.steps, widths)
    assert all(one.holds(found.kept, multiple) for one in widths.sums)
    assert all(found.kept[g] in admissible(n, multiple) for g, n in enumerate(sizes))
    assert found.met == (cost.value(found.kept) <= limit * (1 + 1e-9))
    ways = itertools.product(*(admissible(n, multiple).tolist() for n in sizes))
    good = [
        sum(float(curves[g].damage(np.array(1 - k / sizes[g]))) for g, k in enumerate(way))
        for way in ways
        if cost.value(dict(enumerate(way))) <= limit
        and all(one.holds(dict(enumerate(way)), multiple) for one in widths.sums)
    ]
    if found.met:
        assert found.damage >= min(good) * (1 - 1e-9)


def test_what_is_no_multiple_goes_with_its_neighbour() -> None:
    cost, widths = problem([20, 12], [(0, 1)], 8)
    curves = {0: curve(20, 1.0), 1: curve(12, 1.0)}

    def kept(limit: float) -> dict[int, int]:
        return allocate_aligned(allocate_channels, curves, [(cost, limit)], widths.steps, widths).kept

    assert kept(44) == {0: 20, 1: 12}
    assert kept(40) == {0: 16, 1: 8}
    assert kept(24) == {0: 8, 1: 8}


def test_neighbours_of_what_cannot_change_stay() -> None:
    """4 in a row with 12: 8 would not do, though it is a multiple by itself."""
    cost, widths = problem([12, 4, 24], [(0, 1)], 8)
    curves = {0: curve(12, 1e-3), 1: curve(4, 1.0), 2: curve(24, 1.0)}
    found = allocate_aligned(allocate_channels, curves, [(cost, 70)], widths.steps, widths)
    assert (found.kept, found.met) == ({0: 12, 1: 4, 2: 16}, True)
    cost, widths = problem([12, 4, 24], [(0, 1, 2)], 8)
    one = allocate_aligned(allocate_channels, curves, [(cost, 70)], widths.steps, widths)
    assert (one.kept, one.met) == ({0: 12, 1: 4, 2: 16}, True)
    far = allocate_aligned(allocate_channels, curves, [(cost, 30)], widths.steps, widths)
    assert (far.kept, far.met) == ({0: 12, 1: 4, 2: 8}, False)


def test_sums_inside_of_one_another() -> None:
    """24 and three times 12, as in a dense block: all go to multiples together."""
    cost, widths = problem([24, 12, 12, 12], [(0, 1), (0, 1, 2), (0, 1, 2, 3)], 8)
    curves = {g: curve(n, 1.0 + g) for g, n in enumerate([24, 12, 12, 12])}
    least = cost.value(dict.fromkeys(range(4), 8))
    for share in np.linspace(0.95, least / cost.value({}), 12):
        limit = float(share) * cost.value({}) + 1e-9
        found = allocate_aligned(allocate_channels, curves, [(cost, limit)], widths.steps, widths)
        assert found.met
        assert all(one.holds(found.kept, 8) for one in widths.sums)


def test_scores_under_one_threshold() -> None:
    cost, widths = problem([20, 12], [(0, 1)], 8)
    curves = {0: ScoreCurve.of(np.arange(20.0)), 1: ScoreCurve.of(100 + np.arange(12.0))}
    found = allocate_aligned(threshold_channels, curves, [(cost, 40)], widths.steps, widths)
    assert (found.kept, found.met) == ({0: 16, 1: 8}, True)


def test_nothing_asked_is_the_plain_allocation() -> None:
    cost, _ = problem([20, 12], [(0, 1)], 8)
    curves = {0: curve(20, 1.0), 1: curve(12, 1.0)}
    assert allocate_aligned(allocate_channels, curves, [(cost, 30)], {0: 4}, None) == allocate_channels(
        curves, [(cost, 30)], {0: 4}
    )
