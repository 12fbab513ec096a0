from collections.abc import Callable

import numpy as np
import pytest

from obs_onnx.passes.errors import DataError
from obs_onnx.solvers import Problem, prepare, refit
from obs_onnx.solvers import rounding as module
from obs_onnx.solvers.grids import Grid, GridKind, choose_grid
from obs_onnx.solvers.rounding import rescaled, round_weights

INT8 = GridKind()
INT4 = GridKind(-8, 7)
BLOCKS = GridKind(0, 15, None, 8)
SHARED = GridKind(-8, 7, shared=True)
KINDS = [INT8, INT4, BLOCKS, SHARED]


def surgeon(a_II: np.ndarray, w: np.ndarray, scale: np.ndarray, zero: np.ndarray, ends: tuple) -> np.ndarray:
    """Integers (I,) of one row: rounds a column, moves the others by OBS, forgets the column, and so on."""
    w, left, q = w.copy(), list(np.argsort(-np.diag(a_II), kind="stable")), np.zeros(len(w))
    while left:
        j, rest = left[0], left[1:]
        inverse = np.linalg.inv(a_II[np.ix_(left, left)])
        q[j] = np.clip(np.rint(w[j] / scale[j]) + zero[j], *ends)
        wrong = (w[j] - scale[j] * (q[j] - zero[j])) / inverse[0, 0]
        w[rest] -= wrong * inverse[0, 1:]
        left = rest
    return q


def loss(problem: Problem, w: np.ndarray, best: np.ndarray) -> np.ndarray:
    return np.einsum("goi,gij,goj->go", w - best, problem.a, w - best)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_surgeon_column_by_column(
    kind: GridKind, random_problem: Callable[..., Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SWEEPS", 0)
    monkeypatch.setattr(module, "_BLOCK", 5)
    problem = random_problem(0, (2, 6, 20))
    best = problem.optimum
    grid = choose_grid(best, kind)
    q = round_weights(problem, grid, rescale=False).q
    scale, zero = (np.broadcast_to(one, best.shape) for one in grid.spread(20))
    fed_back = 0
    for g in range(2):
        for o in range(6):
            expected = surgeon(problem.a[g], best[g, o], scale[g, o], zero[g, o], (kind.lowest, kind.highest))
            same = (q[g, o] == expected).all()
            nearest = (q[g, o] == grid.nearest(best)[g, o]).all()
            assert same or nearest
            fed_back += same and not nearest
    assert fed_back >= 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 8, 33), (3, 4, 9), (1, 5, 1), (2, 1, 150)])
def test_never_worse_than_nearest_and_mostly_far_better(
    kind: GridKind, shape: tuple[int, int, int], random_problem: Callable[..., Problem]
) -> None:
    problem = random_problem(1, shape)
    found = round_weights(problem, kind)
    assert found.error <= found.nearest * (1 + 1e-9)
    assert found.q.shape == shape
    assert kind.lowest <= found.q.min() <= found.q.max() <= kind.highest
    best = problem.optimum
    energy = loss(problem, np.zeros_like(best), best).sum()
    assert found.error == pytest.approx(loss(problem, found.w, best).sum() / energy, rel=1e-6)
    if shape == (1, 8, 33):
        assert found.error < 0.7 * found.nearest


@pytest.mark.parametrize("kind", KINDS)
def test_no_single_integer_would_be_better(kind: GridKind, random_problem: Callable[..., Problem]) -> None:
    problem = random_problem(2, (1, 4, 12))
    found = round_weights(problem, kind)
    best, scale = problem.optimum, np.broadcast_to(found.grid.spread(12)[0], (1, 4, 12))
    now, better = loss(problem, found.w, best), 0
    for i in range(12):
        for step in (-1, 1):
            q = found.q.copy()
            q[:, :, i] = np.clip(q[:, :, i] + step, kind.lowest, kind.highest)
            better += int((loss(problem, found.grid.values(q), best) < now - 1e-12).sum())
    assert scale.shape == best.shape
    assert better <= 4  # two passes leave little


@pytest.mark.parametrize("kind", KINDS)
def test_masked_weights_stay_zero(kind: GridKind, random_problem: Callable[..., Problem]) -> None:
    problem = random_problem(3, (2, 6, 24))
    mask = np.random.default_rng(0).random((2, 6, 24)) < 0.4
    mask[0, 2] = False
    found = round_weights(problem, kind, mask)
    assert (found.w[~mask] == 0).all()
    assert (found.q == np.broadcast_to(found.grid.spread(24)[1], mask.shape))[~mask].all()
    best = refit(problem, mask)
    nearest = choose_grid(best, kind)
    plain = np.where(mask, nearest.values(nearest.nearest(best)), 0.0)
    assert loss(problem, found.w, best).sum() < 0.9 * loss(problem, plain, best).sum()


def test_integers_come_back_unchanged() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((60, 16)) @ rng.standard_normal((16, 16))
    q = rng.integers(-8, 8, (1, 5, 16))
    q[..., 0], q[..., 1] = -8, 7
    grid = Grid(rng.uniform(0.1, 2.0, (1, 5, 1)), np.zeros((1, 5, 1), np.int64), -8, 7, 16)
    problem = prepare((x.T @ x)[None], grid.values(q))
    for kind in (grid, INT4):
        found = round_weights(problem, kind)
        np.testing.assert_array_equal(found.q, q)
        np.testing.assert_allclose(found.grid.scale, grid.scale, rtol=1e-9)
    assert found.error < 1e-20


@pytest.mark.parametrize("kind", KINDS)
def test_scales_given_the_integers_are_least_squares(
    kind: GridKind, random_problem: Callable[..., Problem]
) -> None:
    problem = random_problem(5, (2, 3, 20))
    best = problem.optimum
    grid = choose_grid(best, kind)
    q = grid.nearest(best)
    found = rescaled(problem.a, best, q, grid)
    least = loss(problem, found.values(q), best).sum()
    assert least < loss(problem, grid.values(q), best).sum()
    rng = np.random.default_rng(0)
    for _ in range(20):
        near = Grid(
            found.scale * (1 + 1e-3 * rng.standard_normal(found.scale.shape)),
            found.zero,
            kind.lowest,
            kind.highest,
            found.block,
        )
        assert loss(problem, near.values(q), best).sum() > least


def test_scales_may_be_asked_to_stay(random_problem: Callable[..., Problem]) -> None:
    problem = random_problem(6, (1, 4, 16))
    grid = choose_grid(problem.optimum, INT4)
    stays, moves = (round_weights(problem, grid, rescale=one) for one in (False, True))
    np.testing.assert_array_equal(stays.grid.scale, grid.scale)
    assert moves.error <= stays.error < stays.nearest


def test_wide_layers_wait_in_single_precision(
    random_problem: Callable[..., Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = random_problem(7, (1, 6, 300))
    double = round_weights(problem, BLOCKS)
    monkeypatch.setattr(module, "_SINGLE", 1)
    single = round_weights(problem, BLOCKS)
    assert single.error == pytest.approx(double.error, rel=0.02)


def test_inputs_that_are_always_zero() -> None:
    x = np.random.default_rng(8).standard_normal((50, 6))
    x[:, 2:4] = 0
    w = np.random.default_rng(9).standard_normal((1, 3, 6))
    found = round_weights(prepare((x.T @ x)[None], w), INT8)
    assert np.abs(found.w - w).max() < np.abs(w).max() / 20


def test_a_grid_of_another_layer(random_problem: Callable[..., Problem]) -> None:
    problem = random_problem(0, (1, 3, 8))
    grid = Grid(np.ones((1, 2, 1)), np.zeros((1, 2, 1), np.int64), -8, 7, 8)
    with pytest.raises(DataError, match="do not fit"):
        round_weights(problem, grid)
