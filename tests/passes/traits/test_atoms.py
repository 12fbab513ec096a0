"""Unification of axis elements against brute force and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obs_onnx.passes.traits.atoms import Atoms, Labels, fixed, is_joined, is_repeated, joined, product


def dead(atoms: Atoms, labels: Labels, removed: set[int]) -> list[bool]:
    return [bool(set(row.tolist()) & removed) for row in atoms.resolve(labels)]


def test_a_single_element_never_dies() -> None:
    assert Atoms().fresh(1).shape == (1, 0)


def test_split_makes_rows_of_outer_and_inner() -> None:
    atoms = Atoms()
    channels = atoms.fresh(12)
    group, inner = atoms.split(channels, [3, 4])
    assert atoms.resolve(channels).tolist() == atoms.resolve(product([group, inner])).tolist()
    assert len(np.unique(atoms.resolve(channels))) == 3 + 4
    removed = {int(group[1, 0]), int(inner[2, 0])}
    expected = [i // 4 == 1 or i % 4 == 2 for i in range(12)]
    assert dead(atoms, channels, removed) == expected


def test_split_again_at_the_same_place_makes_nothing_new() -> None:
    atoms = Atoms()
    channels = atoms.fresh(12)
    first = atoms.split(channels, [3, 4])
    second = atoms.split(channels, [3, 4])
    for a, b in zip(first, second, strict=True):
        assert atoms.resolve(a).tolist() == atoms.resolve(b).tolist()


def test_split_at_a_finer_place_refines() -> None:
    atoms = Atoms()
    channels = atoms.fresh(24)
    atoms.split(channels, [6, 4])
    outer, _ = atoms.split(channels, [2, 12])
    assert atoms.resolve(outer).shape == (2, 1)
    assert len(np.unique(atoms.resolve(channels))) == 2 + 3 + 4


def test_split_that_does_not_nest_freezes() -> None:
    atoms = Atoms()
    channels = atoms.fresh(24)
    atoms.split(channels, [6, 4])
    atoms.split(channels, [8, 3])
    assert atoms.resolve(channels).shape == (24, 0)


def test_fixed_elements_freeze_what_they_meet() -> None:
    atoms = Atoms()
    channels = atoms.fresh(6)
    atoms.tie(joined([channels[:4], fixed(2)]), atoms.fresh(6))
    atoms.tie(channels, joined([atoms.fresh(4), fixed(2)]))
    assert (atoms.resolve(channels) != 0).any(1).tolist() == [True] * 4 + [False] * 2


def test_ties_are_transitive_and_the_oldest_atom_stays() -> None:
    atoms = Atoms()
    a, b, c = (atoms.fresh(3) for _ in range(3))
    atoms.tie(c, b)
    atoms.tie(b, a[::-1])
    assert atoms.resolve(c).tolist() == a[::-1].tolist()


def test_two_products_of_the_same_shape_match_factor_by_factor() -> None:
    atoms = Atoms()
    p, q, r, s = (atoms.fresh(n) for n in (3, 4, 3, 4))
    atoms.tie(product([p, q]), product([r, s]))
    assert atoms.resolve(r).tolist() == p.tolist()
    assert atoms.resolve(s).tolist() == q.tolist()


def test_lengths_must_agree() -> None:
    atoms = Atoms()
    with pytest.raises(ValueError, match="3 and 4 elements"):
        atoms.tie(atoms.fresh(3), atoms.fresh(4))


axes = st.sampled_from([(12,), (3, 4), (4, 3), (2, 6), (6, 2), (2, 2, 3), (2, 3, 2), (3, 2, 2)])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(axes, st.booleans(), st.integers(0, 99)), min_size=1, max_size=5), st.integers(0, 99)
)
def test_what_is_left_is_always_a_solution(steps: list[tuple[tuple[int, ...], bool, int]], seed: int) -> None:
    """Whatever is asked for, any selection of atoms satisfies every tie and every Reshape."""
    atoms = Atoms()
    values = [atoms.fresh(12)]
    ties: list[tuple[Labels, Labels]] = []
    for shape, permute, choice in steps:
        rng = np.random.default_rng(choice)
        x = values[rng.integers(len(values))]
        parts = atoms.split(x, shape)
        ties.append((x, product(parts)))
        order = rng.permutation(len(parts))
        y = product([parts[i] for i in order])
        if permute:
            other = values[rng.integers(len(values))]
            atoms.tie(y, other)
            ties.append((y, other))
        values.append(y if choice % 3 else atoms.fresh(12))
    removed = (
        set(np.random.default_rng(seed).integers(1, atoms.count, 4).tolist()) if atoms.count > 1 else set()
    )
    for a, b in ties:
        assert dead(atoms, a, removed) == dead(atoms, b, removed)


class TestVaryingSizes:
    """Five channels, and an axis of 13 whose size varies with the data."""

    def test_repeated_rows_keep_a_share(self) -> None:
        channels, tokens = Atoms().fresh(5), fixed(13)
        assert is_repeated(product([tokens, channels]))
        assert is_repeated(product([channels, tokens]))
        assert is_repeated(tokens)
        assert not is_repeated(joined([channels, tokens]))
        assert not is_repeated(product([fixed(3), joined([channels, tokens])]))

    def test_joined_rows_keep_a_difference(self) -> None:
        channels, tokens = Atoms().fresh(5), fixed(13)
        assert is_joined(joined([channels, tokens]))
        assert is_joined(joined([fixed(4), channels, tokens]))
        assert not is_joined(product([fixed(3), joined([channels, tokens])]))
        assert not is_joined(product([tokens, channels]))
        assert not is_joined(joined([channels, channels, tokens]))
        assert not is_joined(channels)


def test_more_elements_than_can_be_told_apart_never_die() -> None:
    atoms = Atoms()
    assert atoms.fresh(2**45).shape == (2**45, 0)
    assert atoms.count == 1
    assert atoms.fresh(3).shape == (3, 1)
