"""Damping by cross-validation: the factor with the smallest error on the other half."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.calibration.damping import FACTORS, cross_validated
from obs_onnx.calibration.second_moments import LayerMoments, Moments
from obs_onnx.passes.traits.linear import MatmulGeometry


def moments(x: np.ndarray, t: np.ndarray | None) -> LayerMoments:
    found = Moments((1, 1 if t is None else t.shape[1], x.shape[1]), targeted=t is not None)
    found.update(x, MatmulGeometry(), t)
    return found.raw()


def errors(halves: list, w: np.ndarray, damping: float) -> list[float]:
    """Of each factor: squared error of the ridge solution on the half it was not fitted on."""
    found = []
    for factor in FACTORS:
        total = 0.0
        for (x, t), (other, wanted) in (halves, halves[::-1]):
            h = x.T @ x
            ridge = factor * damping * np.trace(h) / len(h)
            solution = np.linalg.solve(h + ridge * np.eye(len(h)), x.T @ t + ridge * w.T)
            total += np.sum((other @ solution - wanted) ** 2)
        found.append(total)
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("samples", [12, 40, 1000])
def test_the_best_on_the_other_half_wins(seed: int, samples: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2 * samples, 10)) * np.exp(rng.standard_normal(10))
    w = rng.standard_normal((3, 10))
    t = x @ (w + 0.3 * rng.standard_normal((3, 10))).T + 2 * rng.standard_normal((2 * samples, 3))
    halves = [(x[:samples], t[:samples]), (x[samples:], t[samples:])]
    found = cross_validated((moments(*halves[0]), moments(*halves[1])), w[None], 0.01)
    assert found == pytest.approx(0.01 * FACTORS[int(np.argmin(errors(halves, w, 0.01)))])


def test_few_noisy_samples_need_more_than_many() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((4, 30))
    found = []
    for samples in (32, 4000):
        x = rng.standard_normal((2 * samples, 30))
        t = x @ w.T + 3 * rng.standard_normal((2 * samples, 4))
        halves = moments(x[:samples], t[:samples]), moments(x[samples:], t[samples:])
        found.append(cross_validated(halves, 0 * w[None], 1e-3))
    assert found[0] > 3 * found[1]


def test_nothing_to_choose_from() -> None:
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((1, 4)), rng.standard_normal((1, 2))
    assert cross_validated((moments(x, t), moments(x, t)), np.ones((1, 2, 4)), 0.3) == 0.3
    x = rng.standard_normal((50, 4))
    assert cross_validated((moments(x, None), moments(x, None)), np.ones((1, 1, 4)), 0.0) == 0.0


@pytest.mark.parametrize("seed", range(4))
def test_without_targets_a_half_of_the_columns_stands_in_for_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((60, 8)) @ rng.standard_normal((8, 8))
    w = rng.standard_normal((2, 8))
    kept = np.sort(np.random.default_rng(seed).permutation(8)[:4])
    found = cross_validated((moments(x[:30], None), moments(x[30:], None)), w[None], 1e-3, seed=seed)
    halves = [(part[:, kept], part @ w.T) for part in (x[:30], x[30:])]
    assert found == pytest.approx(1e-3 * FACTORS[int(np.argmin(errors(halves, w[:, kept], 1e-3)))])
