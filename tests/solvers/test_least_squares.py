from collections.abc import Callable

import numpy as np
import pytest

from obs_onnx.solvers import Problem, least_squares, refit
from obs_onnx.solvers.least_squares import conjugate_gradients

Maker = Callable[..., Problem]


def explicit(problem: Problem, mask: np.ndarray) -> np.ndarray:
    w = np.zeros(mask.shape)
    for g, o in np.ndindex(mask.shape[:2]):
        s = np.flatnonzero(mask[g, o])
        if len(s):
            w[g, o, s] = np.linalg.solve(problem.a[g][np.ix_(s, s)], problem.b[g, o, s])
    return w


@pytest.mark.parametrize("shape", [(1, 4, 9), (30, 2, 9), (2, 5, 70), (1, 3, 200)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.8, 1.0])
def test_refit_is_exact_on_support(random_problem: Maker, shape: tuple[int, int, int], share: float) -> None:
    problem = random_problem(0, shape)
    mask = np.random.default_rng(1).random(shape) < share
    w = refit(problem, mask)
    assert (w[~mask] == 0).all()
    np.testing.assert_allclose(w, explicit(problem, mask), rtol=1e-7, atol=1e-10)
    gradient = (w @ problem.a - problem.b)[mask]
    assert np.abs(gradient).max(initial=0.0) < 1e-8 * np.abs(problem.b).max()
    assert problem.error(w, stationary=True) == pytest.approx(problem.error(w), rel=1e-6)


def test_rows_with_the_same_support(random_problem: Maker) -> None:
    problem = random_problem(2, (1, 6, 80))
    mask = np.repeat(np.random.default_rng(3).random((1, 2, 80)) < 0.4, 3, axis=1)
    np.testing.assert_allclose(refit(problem, mask), explicit(problem, mask), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_conjugate_gradients_equal_the_exact_solution(random_problem: Maker, share: float) -> None:
    problem = random_problem(4, (1, 6, 150), damping=1e-2)
    mask = np.random.default_rng(5).random((1, 6, 150)) < share
    mask[0, 0] = False
    w = conjugate_gradients(problem.a[0], problem.b[0], mask[0], problem.optimum[0])
    assert (w[~mask[0]] == 0).all()
    np.testing.assert_allclose(w, explicit(problem, mask)[0], rtol=1e-5, atol=1e-7 * np.abs(w).max())


def test_wide_layers_take_conjugate_gradients(random_problem: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_problem(6, (1, 5, 120), damping=1e-2)
    mask = np.random.default_rng(7).random((1, 5, 120)) < 0.5
    exact = refit(problem, mask)
    monkeypatch.setattr(least_squares, "_CG_COLUMNS", 1)
    monkeypatch.setattr(least_squares, "_CG_ITERATIONS", -1e9)
    np.testing.assert_allclose(refit(problem, mask), exact, rtol=1e-5, atol=1e-7 * np.abs(exact).max())


def test_large_directions_of_the_moments_cost_no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(10)
    x = rng.standard_normal((400, 50)) * np.geomspace(30, 1, 50) @ rng.standard_normal((50, 300))
    a = np.cov(x, rowvar=False, bias=True) + 400.0  # a mean that all columns share
    a += 1e-2 * np.diag(a).mean() * np.eye(300)
    b, mask = rng.standard_normal((4, 300)) @ a, rng.random((4, 300)) < 0.5
    scale = 1 / np.sqrt(np.diag(a))

    def residual(directions: float) -> float:
        monkeypatch.setattr(least_squares, "_DEFLATED", directions / 300)
        w = conjugate_gradients(a, b, mask, np.zeros((4, 300)), 1e-3, rounds=1, iterations=30)
        norms = [np.linalg.norm(np.where(mask, y * scale, 0.0), axis=1) for y in (b - w @ a, b)]
        return float((norms[0] / norms[1]).max())

    assert residual(60) < 1e-3 < residual(1)


def test_fewer_columns_than_directions(random_problem: Maker) -> None:
    problem = random_problem(11, (1, 3, 20), damping=1e-2)
    mask = np.random.default_rng(12).random((1, 3, 20)) < 0.5
    w = conjugate_gradients(problem.a[0], problem.b[0], mask[0], problem.optimum[0])
    np.testing.assert_allclose(w, explicit(problem, mask)[0], rtol=1e-5, atol=1e-7 * np.abs(w).max())


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5])
def test_what_is_good_enough_takes_no_more_steps(random_problem: Maker, tolerance: float) -> None:
    """The residual is as small as asked for, wherever the steps begin."""
    problem = random_problem(10, (1, 5, 150), damping=1e-2)
    mask = np.random.default_rng(11).random((1, 5, 150)) < 0.5
    exact, scale = explicit(problem, mask), 1 / np.sqrt(np.diag(problem.a[0]))
    for start in (problem.optimum, exact * 1.001, exact):
        w = conjugate_gradients(problem.a[0], problem.b[0], mask[0], start[0], tolerance)
        left, whole = (
            np.where(mask[0], x * scale, 0) for x in (problem.b[0] - w @ problem.a[0], problem.b[0])
        )
        assert (np.linalg.norm(left, axis=1) <= tolerance * np.linalg.norm(whole, axis=1)).all()


def test_no_other_weights_on_the_support_are_better(random_problem: Maker) -> None:
    problem = random_problem(8, (1, 1, 6))
    rng = np.random.default_rng(9)
    mask = np.array([[[True, False, True, True, False, False]]])
    w = refit(problem, mask)
    objective = lambda v: ((v @ problem.a - 2 * problem.b) * v).sum()  # noqa: E731
    for _ in range(50):
        assert objective(w) < objective(w + 1e-3 * rng.standard_normal(w.shape) * mask)
