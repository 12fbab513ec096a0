"""Allocation of channels against the best of all ways, with costs that are products of kept counts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obs_onnx.allocation.channels import Allocation, Quantum, admissible, allocate_channels
from obs_onnx.allocation.curves import Curve
from obs_onnx.passes.costs.polynomials import Polynomial

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
Problem = tuple[dict[int, Curve], list[Polynomial]]


def curve(n: int, scale: float, power: float) -> Curve:
    return Curve(n, LEVELS, tuple(scale * (np.exp(power * s) - 1) for s in LEVELS), (0.0,) * len(LEVELS))


def problem(seed: int, groups: int, least: int, most: int, costs: int) -> Problem:
    """A chain of layers: each costs its inputs times its outputs, some are square."""
    rng = np.random.default_rng(seed)
    sizes = {group: int(rng.integers(least, most + 1)) for group in range(groups)}
    curves = {g: curve(n, 10 ** rng.uniform(-2, 1), rng.uniform(1, 8)) for g, n in sizes.items()}
    found = []
    for _ in range(costs):
        terms = {((g, 1), (g + 1, 1)): float(rng.integers(1, 20)) for g in range(groups - 1)}
        terms |= {((g, 1),): float(rng.integers(1, 5)) for g in range(groups)}
        terms |= {((g, 2),): float(rng.integers(1, 9)) for g in range(groups) if rng.random() < 0.3}
        found.append(Polynomial({(): 3.0, **terms}, sizes))
    return curves, found


def damage(curves: dict[int, Curve], kept: dict[int, int]) -> float:
    return sum(float(one.damage(np.array(1 - kept[g] / one.size))) for g, one in curves.items())


def best(curves: dict[int, Curve], limits: list[tuple[Polynomial, float]], quantum: int) -> float | None:
    """Least damage of all ways that hold the limits."""
    levels = [admissible(one.size, quantum) for one in curves.values()]
    ways = np.stack([grid.reshape(-1) for grid in np.meshgrid(*levels, indexing="ij")]).astype(np.float64)
    holds = np.ones(ways.shape[1], bool)
    for cost, limit in limits:
        parts = [c * np.prod([ways[g] ** p for g, p in term], axis=0) for term, c in cost.terms.items()]
        holds &= sum(parts) <= limit * (1 + 1e-12)
    damages = sum(one.damage(1 - ways[g] / one.size) for g, one in curves.items())
    return float(damages[holds].min()) if holds.any() else None


@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.integers(1, 3),
    st.lists(st.floats(0.02, 0.98), min_size=2, max_size=2),
)
@settings(max_examples=120, deadline=None)
def test_close_to_the_best_of_all_ways(seed: int, groups: int, quantum: int, shares: list[float]) -> None:
    curves, costs = problem(seed, groups, 2, 8, 2)
    limits = [(cost, share * cost.value({})) for cost, share in zip(costs, shares, strict=True)]
    found, least = allocate_channels(curves, limits, quantum), best(curves, limits, quantum)
    assert found.met == (least is not None)
    assert found == allocate_channels(curves, limits, quantum)
    assert all(found.kept[g] in admissible(one.size, quantum) for g, one in curves.items())
    assert found.damage == pytest.approx(damage(curves, found.kept), rel=1e-9, abs=1e-12)
    if least is None:
        assert any(cost.value(found.kept) > limit for cost, limit in limits)
    else:
        assert all(cost.value(found.kept) <= limit * (1 + 1e-9) for cost, limit in limits)
        assert least * (1 - 1e-9) <= found.damage <= least * 1.05 + 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_stricter_limits_cost_more(seed: int) -> None:
    curves, (cost,) = problem(seed, 12, 8, 64, 1)
    dense = cost.value({})
    damages = [allocate_channels(curves, [(cost, dense * s)], 4).damage for s in np.linspace(1, 0.2, 9)]
    assert damages[0] == 0
    assert all(b >= a * 0.99 for a, b in itertools.pairwise(damages))


def test_many_groups_and_wide_ones() -> None:
    curves, costs = problem(3, 100, 64, 64, 2)
    limits = [(cost, cost.value({}) * 0.5) for cost in costs]
    many = allocate_channels(curves, limits)
    assert many.met
    assert max(cost.value(many.kept) / limit for cost, limit in limits) == pytest.approx(1, abs=2e-3)
    assert (
        many.damage < damage(curves, dict.fromkeys(curves, 45)) * 0.9
    )  # 45 / 64 of all: about the same cost
    curves, (cost,) = problem(5, 4, 1500, 3000, 1)
    wide = allocate_channels(curves, [(cost, cost.value({}) * 0.4)])
    assert wide.met
    assert cost.value(wide.kept) == pytest.approx(cost.value({}) * 0.4, rel=2e-3)
    for a, b in itertools.permutations(curves, 2):  # nothing to gain from moving channels from one to another
        for step in (1, 7, 40):
            moved = {**wide.kept, a: wide.kept[a] - step, b: min(wide.kept[b] + step, curves[b].size)}
            if moved[a] > 0 and cost.value(moved) <= cost.value({}) * 0.4:
                assert damage(curves, moved) >= wide.damage * 0.998


def test_the_sensitive_group_keeps_more() -> None:
    curves = {0: curve(64, 0.01, 4), 1: curve(64, 1.0, 4)}
    cost = Polynomial({((0, 1), (2, 1)): 1.0, ((1, 1), (2, 1)): 1.0}, {0: 64, 1: 64, 2: 10})
    found = allocate_channels(curves, [(cost, 640.0)], 8)
    assert found.kept[0] < found.kept[1]
    assert sum(found.kept.values()) == 64
    assert all(n % 8 == 0 for n in found.kept.values())
    assert 2 not in found.kept
    mixed = allocate_channels(curves, [(cost, 640.0)], {0: 16})
    assert mixed.kept[0] % 16 == 0


def test_nothing_to_do_and_nothing_possible() -> None:
    curves = {4: curve(10, 1.0, 2), 7: curve(1, 1.0, 2)}
    cost = Polynomial({(): 100.0, ((4, 1),): 1.0}, {4: 10, 7: 1, 9: 3})
    assert allocate_channels(curves, [(cost, 110.0)]) == Allocation({4: 10, 7: 1}, True, 0.0)
    assert allocate_channels(curves, []) == Allocation({4: 10, 7: 1}, True, 0.0)
    impossible = allocate_channels(curves, [(cost, 90.0)])
    assert (impossible.kept, impossible.met) == ({4: 1, 7: 1}, False)
    assert allocate_channels({}, [(cost, 90.0)]) == Allocation({}, False, 0.0)
    free = {4: Curve(10, LEVELS, (0.0,) * 5, (0.0,) * 5)}
    assert cost.value(allocate_channels(free, [(cost, 104.0)]).kept) <= 104


@pytest.mark.parametrize(
    ("n", "quantum", "whole", "counts"),
    [
        (64, 16, True, [16, 32, 48, 64]),
        (70, 16, True, [16, 32, 48, 64, 70]),
        (70, 16, False, [16, 32, 48, 64]),
        (24, 16, True, [16, 24]),
        (12, 16, True, [12]),
        (12, 16, False, [12]),
        (1, 8, True, [1]),
        (6, 1, False, [1, 2, 3, 4, 5]),
        (20, (8, 16, 24), False, [8, 16]),
        (20, (), True, [20]),
    ],
)
def test_admissible_counts(n: int, quantum: Quantum, whole: bool, counts: list[int]) -> None:
    assert admissible(n, quantum, whole).tolist() == counts


def test_a_quantum_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="multiples of 0"):
        admissible(8, 0)
