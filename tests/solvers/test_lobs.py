import numpy as np
import pytest

from obs_onnx.passes.errors import OptionError
from obs_onnx.solvers.lobs import append_one, inverse_hessian, lobs_levels, sensitivities, woodbury

ALPHA = 1e-4


@pytest.fixture
def inputs() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((200, 7)) + 0.5


def test_recursion_equals_closed_form_and_definition(inputs: np.ndarray) -> None:
    hessian = sum(np.outer(y, y) for y in inputs) / len(inputs) + ALPHA * np.eye(7)
    np.testing.assert_allclose(woodbury(inputs, ALPHA), np.linalg.inv(hessian), rtol=1e-8, atol=1e-9)
    closed = inverse_hessian(inputs.T @ inputs, len(inputs), ALPHA)
    np.testing.assert_allclose(closed, np.linalg.inv(hessian), rtol=1e-8, atol=1e-9)


def test_bias_is_an_input_that_is_always_one(inputs: np.ndarray) -> None:
    with_one = np.hstack([inputs, np.ones((len(inputs), 1))])
    moment = append_one(inputs.T @ inputs, inputs.sum(0), len(inputs))
    np.testing.assert_allclose(moment, with_one.T @ with_one, rtol=1e-12)
    centred = inputs - inputs.mean(0)
    without_alpha = inverse_hessian(moment, len(inputs), 0.0)[:7, :7]
    np.testing.assert_allclose(
        without_alpha, inverse_hessian(centred.T @ centred, len(inputs), 0.0), rtol=1e-8, atol=1e-10
    )


def test_sensitivities_are_the_papers(inputs: np.ndarray) -> None:
    w = np.random.default_rng(1).standard_normal((3, 7))
    inverse = woodbury(inputs, ALPHA)
    expected = [[w[o, q] ** 2 / (2 * inverse[q, q]) for q in range(7)] for o in range(3)]
    np.testing.assert_allclose(sensitivities(w, inverse), expected, rtol=1e-13)


def test_algorithm_one_step_by_step(inputs: np.ndarray) -> None:
    dense = np.random.default_rng(2).standard_normal((1, 4, 8))
    with_one = np.hstack([inputs, np.ones((len(inputs), 1))])
    inverse = woodbury(with_one, ALPHA)
    scores = [(dense[0, o, q] ** 2 / (2 * inverse[q, q]), o, q) for o in range(4) for q in range(7)]
    w, keep = dense[0].copy(), np.ones((4, 8), bool)
    expected = {}
    for step, (_, o, q) in enumerate(sorted(scores), start=1):
        w[o] += -w[o, q] / inverse[q, q] * inverse[:, q]
        keep[o, q] = False
        w[o][~keep[o]] = 0.0
        expected[step] = w.copy()
    counts = [1, 9, 20, 28]
    found = lobs_levels(dense, inverse[None], [count / 28 for count in counts], frozen=[7])
    for count, (weights, mask) in zip(counts, found, strict=True):
        assert (~mask).sum() == count
        assert mask[:, :, 7].all()
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
