"""Supports that ignore the data."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.solvers.baselines import magnitude_mask, random_mask
from obs_onnx.solvers.patterns import parse_pattern

W = np.random.default_rng(0).standard_normal((2, 4, 8))


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.75])
def test_the_smallest_weights_of_the_layer_go(sparsity: float) -> None:
    mask = magnitude_mask(W, sparsity)
    assert (~mask).sum() == round(sparsity * W.size)
    if sparsity:
        assert np.abs(W)[~mask].max() < np.abs(W)[mask].min()


def test_blocks_go_by_their_sums_of_squares_and_runs_lose_their_smallest() -> None:
    mask = magnitude_mask(W, 0.5, parse_pattern("1x4"))
    blocks = mask.reshape(-1, 4)
    assert (blocks.all(1) | ~blocks.any(1)).all()
    energies = (W.reshape(-1, 4) ** 2).sum(1)
    assert energies[~blocks.all(1)].max() < energies[blocks.all(1)].min()
    runs = magnitude_mask(W, 0.5, parse_pattern("2:4")).reshape(-1, 4)
    for run, kept in zip(np.abs(W).reshape(-1, 4), runs, strict=True):
        assert set(np.argsort(run)[:2]) == set(np.flatnonzero(~kept))


def test_random_supports_are_nested_and_depend_on_the_seed() -> None:
    shape = (2, 40, 30)
    some, more = (random_mask(shape, sparsity, seed=1) for sparsity in (0.3, 0.6))
    assert [(~mask).sum() for mask in (some, more)] == [720, 1440]
    assert not (more & ~some).any()
    assert (more != random_mask(shape, 0.6, seed=2)).any()
    shares = (~more).mean(axis=(0, 2))
    assert 0.3 < shares.min() < shares.max() < 0.9
