import numpy as np
import pytest

from obs_onnx.passes.errors import DataError, OptionError
from obs_onnx.solvers import prepare
from obs_onnx.solvers.problem import inverse_of


def test_optimum_and_error_of_a_regression() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((50, 6)), rng.standard_normal((1, 3, 6))
    t = x @ w[0].T + 0.3 * rng.standard_normal((50, 3))
    problem = prepare(x.T @ x, w, x.T @ t, (t**2).sum(0)[None], damping=1e-13)
    best = np.linalg.lstsq(x, t, rcond=None)[0].T
    np.testing.assert_allclose(problem.optimum[0], best, rtol=1e-8)
    expected = ((x @ best.T - t) ** 2).sum() / (t**2).sum()
    assert problem.error(problem.optimum) == pytest.approx(expected, rel=1e-8)
    assert problem.error(problem.optimum, stationary=True) == pytest.approx(expected, rel=1e-8)
    assert problem.error(np.zeros((1, 3, 6))) == pytest.approx(1.0)
    excess = prepare(x.T @ x, w, x.T @ t, damping=1e-13)
    assert excess.error(excess.optimum) == pytest.approx(0.0, abs=1e-10)
    some = rng.standard_normal((1, 3, 6))
    expected = ((x @ (some[0] - best).T) ** 2).sum() / ((x @ best.T) ** 2).sum()
    assert excess.error(some) == pytest.approx(expected, rel=1e-7)


def test_error_is_that_of_the_undamped_output() -> None:
    rng = np.random.default_rng(1)
    x, w, other = (rng.standard_normal(s) for s in ((40, 5), (1, 4, 5), (1, 4, 5)))
    problem = prepare(x.T @ x, w, damping=0.5)
    np.testing.assert_allclose(problem.optimum, w, rtol=1e-12)
    expected = ((x @ (w - other)[0].T) ** 2).sum() / ((x @ w[0].T) ** 2).sum()
    assert problem.error(other) == pytest.approx(expected, rel=1e-10)


def test_undetermined_weights_stay_dense() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((40, 5))
    x[:, 2] = 0
    w, t = rng.standard_normal((1, 2, 5)), rng.standard_normal((40, 2))
    problem = prepare(x.T @ x, w, x.T @ t, damping=1e-3)
    np.testing.assert_allclose(problem.optimum[0, :, 2], w[0, :, 2], rtol=1e-12)
    assert problem.dead[0].tolist() == [False, False, True, False, False]
    assert (problem.start[0, :, 2] == 0).all()


def test_damping_is_raised_until_definite() -> None:
    x = np.random.default_rng(3).standard_normal((4, 9))
    problem = prepare(x.T @ x, np.ones((1, 2, 9)), damping=0.0)
    assert 0 < problem.damping < 1e-6
    assert np.isfinite(problem.optimum).all()
    zero = prepare(np.zeros((2, 3, 3)), np.ones((2, 1, 3)))
    assert zero.error(np.zeros((2, 1, 3))) == 0.0
    np.testing.assert_allclose(zero.optimum, 1.0)


@pytest.mark.parametrize("size", [5, 90])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_inverse(size: int, dtype: type) -> None:
    x = np.random.default_rng(4).standard_normal((2, 3 * size, size))
    a = (x.swapaxes(1, 2) @ x).astype(dtype)
    inverse = inverse_of(a.copy())
    assert inverse.dtype == dtype
    np.testing.assert_array_equal(inverse, inverse.swapaxes(1, 2))
    np.testing.assert_allclose(inverse @ a, np.broadcast_to(np.eye(size), a.shape), atol=1e-4)
    with pytest.raises(np.linalg.LinAlgError):
        inverse_of(-a)


def test_bad_arguments() -> None:
    h, w = np.eye(3), np.ones((2, 3))
    with pytest.raises(OptionError, match="negative"):
        prepare(h, w, damping=-1.0)
    with pytest.raises(DataError, match="does not fit"):
        prepare(np.eye(4), w)
    with pytest.raises(DataError, match="does not fit"):
        prepare(h, w, np.ones((2, 3)))
    with pytest.raises(DataError, match="not finite"):
        prepare(h * np.nan, w)
    with pytest.raises(DataError, match="axes"):
        prepare(np.ones(3), w)
    with pytest.raises(DataError, match="semi-definite"):
        prepare(-1e9 * h, w)
