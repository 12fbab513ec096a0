import numpy as np
import pytest

from obs_onnx.passes.errors import OptionError
from obs_onnx.solvers.lobs import lobs_levels, sensitivities

ALPHA = 1e-4


@pytest.fixture
def inputs() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((200, 7)) + 0.5


def woodbury(y_NI: np.ndarray, alpha: float) -> np.ndarray:
    """Inverse Hessian (I, I) by the paper's recursion over samples (eq. 10)."""
    inverse = np.eye(y_NI.shape[1]) / alpha
    for y in y_NI:
        v = inverse @ y
        inverse -= np.outer(v, v) / (len(y_NI) + y @ v)
    return inverse


def test_the_papers_recursion_is_the_inverse_of_the_damped_moments(inputs: np.ndarray) -> None:
    hessian = inputs.T @ inputs / len(inputs) + ALPHA * np.eye(7)
    np.testing.assert_allclose(woodbury(inputs, ALPHA), np.linalg.inv(hessian), rtol=1e-8, atol=1e-9)


def test_a_bias_as_an_input_that_is_always_one_is_the_moment_about_the_mean(inputs: np.ndarray) -> None:
    with_one = np.hstack([inputs, np.ones((len(inputs), 1))])
    centred = inputs - inputs.mean(0)
    np.testing.assert_allclose(
        np.linalg.inv(with_one.T @ with_one)[:7, :7],
        np.linalg.inv(centred.T @ centred),
        rtol=1e-8,
        atol=1e-10,
    )


def test_sensitivities_are_the_papers(inputs: np.ndarray) -> None:
    w = np.random.default_rng(1).standard_normal((3, 7))
    inverse = woodbury(inputs, ALPHA)
    expected = [[w[o, q] ** 2 / (2 * inverse[q, q]) for q in range(7)] for o in range(3)]
    np.testing.assert_allclose(sensitivities(w, inverse), expected, rtol=1e-13)


def test_algorithm_one_step_by_step(inputs: np.ndarray) -> None:
    dense = np.random.default_rng(2).standard_normal((1, 4, 7))
    inverse = woodbury(inputs, ALPHA)
    scores = [(dense[0, o, q] ** 2 / (2 * inverse[q, q]), o, q) for o in range(4) for q in range(7)]
    w, keep = dense[0].copy(), np.ones((4, 7), bool)
    expected = {}
    for step, (_, o, q) in enumerate(sorted(scores), start=1):
        w[o] += -w[o, q] / inverse[q, q] * inverse[:, q]
        keep[o, q] = False
        w[o][~keep[o]] = 0.0
        expected[step] = w.copy()
    counts = [1, 9, 20, 28]
    found = lobs_levels(dense, inverse[None], [count / 28 for count in counts])
    for count, (weights, mask) in zip(counts, found, strict=True):
        assert (~mask).sum() == count
        np.testing.assert_allclose(weights[0], expected[count], rtol=1e-9, atol=1e-12)


def test_one_removal_is_the_optimal_surgeon(inputs: np.ndarray) -> None:
    dense = np.random.default_rng(3).standard_normal((1, 1, 7))
    hessian = inputs.T @ inputs / len(inputs) + ALPHA * np.eye(7)
    ((w, mask),) = lobs_levels(dense, np.linalg.inv(hessian)[None], [1 / 7])
    kept = np.flatnonzero(mask[0, 0])
    best = np.linalg.solve(hessian[np.ix_(kept, kept)], (hessian @ dense[0, 0])[kept])
    np.testing.assert_allclose(w[0, 0, kept], best, rtol=1e-9)


def test_groups_share_one_budget(inputs: np.ndarray) -> None:
    dense = np.random.default_rng(4).standard_normal((2, 3, 7)) * np.array([1.0, 10.0])[:, None, None]
    inverse = np.stack([woodbury(inputs, ALPHA)] * 2)
    ((_, mask),) = lobs_levels(dense, inverse, [0.5])
    assert (~mask).sum() == 21
    assert (~mask[0]).sum() > (~mask[1]).sum()


def test_shares_must_grow(inputs: np.ndarray) -> None:
    with pytest.raises(OptionError, match="grow"):
        list(lobs_levels(np.ones((1, 1, 7)), np.eye(7)[None], [0.5, 0.2]))
