"""Orthogonal arrays by brute force, colours of groups, and plans."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from obs_onnx.latency.experiment_design import columns_for, orthogonal_array, plans


@pytest.mark.parametrize("levels", [2, 3, 5, 7, 11])
def test_any_two_columns_hold_every_pair_once(levels: int) -> None:
    array = orthogonal_array(levels)
    assert array.shape == (levels**2, levels + 1)
    every = sorted(itertools.product(range(levels), repeat=2))
    for one, other in itertools.combinations(range(levels + 1), 2):
        assert sorted(zip(array[:, one].tolist(), array[:, other].tolist(), strict=True)) == every


@pytest.mark.parametrize("levels", [0, 1, 4, 6, 9])
def test_levels_must_be_prime(levels: int) -> None:
    with pytest.raises(ValueError, match=f"{levels} is no prime"):
        orthogonal_array(levels)


@given(st.lists(st.sets(st.integers(0, 9), max_size=3), max_size=12))
def test_groups_that_meet_get_different_columns(meeting: list[set[int]]) -> None:
    groups = list(range(10))
    found = columns_for(groups, [*meeting, {77, 1}], 10)  # as many columns as there are groups
    assert found.keys() == set(groups)
    for together in meeting:
        assert len({found[group] for group in together}) == len(together)
    assert found == columns_for(groups, [*meeting, {77, 1}], 10)


def test_too_few_columns_are_shared_evenly() -> None:
    found = columns_for(range(6), [range(6)], 3)
    assert sorted(found.values()) == [0, 0, 1, 1, 2, 2]


def test_plans_show_every_block_at_every_pair_of_levels() -> None:
    counts = {0: np.arange(4, 65, 4), 1: np.array([2, 4, 8]), 2: np.arange(1, 10), 3: np.array([5])}
    meeting = [(0, 1), (1, 2), (0, 2), (2, 3), ()]
    rows = plans(counts, meeting, 5)
    assert rows[-1] == {0: 64, 1: 8, 2: 9, 3: 5}
    assert len({tuple(row.items()) for row in rows}) == len(rows) <= 25
    levels = {group: {row[group] for row in rows} for group in counts}
    assert [len(levels[group]) for group in counts] == [5, 3, 5, 1]
    assert all({int(own[0]), int(own[-1])} <= levels[group] <= set(own) for group, own in counts.items())
    for together in meeting:
        seen = {tuple(row[group] for group in together) for row in rows}
        assert seen == set(itertools.product(*(levels[group] for group in together)))


def test_one_width_is_one_plan() -> None:
    assert plans({4: np.array([1])}, [(4,)], 7) == [{4: 1}]
