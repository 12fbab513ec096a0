from collections.abc import Callable

import numpy as np
import pytest

from obs_onnx.solvers import Problem, prepare


@pytest.fixture
def random_problem() -> Callable[..., Problem]:
    """Problem of a noisy regression on correlated inputs of very different sizes."""

    def make(seed: int, shape: tuple[int, int, int], damping: float = 1e-3) -> Problem:
        groups, rows, columns = shape
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((groups, 3 * columns, columns)) * np.exp(rng.standard_normal(columns))
        x[..., 1:] += x[..., :-1]
        w = rng.standard_normal(shape)
        t = x @ w.swapaxes(1, 2) + 0.5 * rng.standard_normal((groups, 3 * columns, rows))
        return prepare(x.swapaxes(1, 2) @ x, w, x.swapaxes(1, 2) @ t, (t**2).sum(1), damping)

    return make
