import numpy as np
import pytest

from obs_onnx.passes.errors import OptionError
from obs_onnx.solvers import (
    METHODS,
    Solution,
    choose_method,
    follows,
    parse_pattern,
    prepare,
    solve_levels,
)

LEVELS = [0.9, 0.0, 0.5, 1.0]


def layer(seed: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """h, w, c, energy of inputs that differ a little from those of the dense network."""
    groups, _, columns = shape
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((groups, 4 * columns, columns)) @ rng.standard_normal((groups, columns, columns))
    w = rng.standard_normal(shape)
    t = (x + 0.1 * rng.standard_normal(x.shape)) @ w.swapaxes(1, 2)
    return x.swapaxes(1, 2) @ x, w, x.swapaxes(1, 2) @ t, (t**2).sum(axis=1)


def solved(h, w, sparsities, *, c=None, energy=None, damping: float = 1e-2, **options) -> list[Solution]:
    return solve_levels(prepare(h, w, c, energy, damping), sparsities, **options)


@pytest.mark.parametrize("shape", [(1, 6, 30), (40, 1, 9), (3, 2, 60)])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_meets_every_level(shape: tuple[int, int, int], method: str) -> None:
    h, w, c, energy = layer(0, shape)
    solutions = solved(h, w, LEVELS, c=c, energy=energy, method=method)
    for sparsity, solution in zip(LEVELS, solutions, strict=True):
        assert (~solution.mask).sum() == round(sparsity * w.size)
        assert (solution.w[~solution.mask] == 0).all()
        assert solution.w.dtype == np.float64
        assert solution.sparsity == pytest.approx(sparsity, abs=1 / w.size)
        total = np.einsum("goi,gij,goj->", solution.w, h, solution.w)
        total += energy.sum() - 2 * np.einsum("goi,gio->", solution.w, c)
        assert solution.error == pytest.approx(total / energy.sum(), rel=1e-6, abs=1e-12)
    dense, half, most, nothing = (solutions[i].error for i in (1, 2, 0, 3))
    assert dense < half < most < nothing == pytest.approx(1.0)


def test_two_runs_give_identical_bytes() -> None:
    h, w, c, energy = layer(1, (1, 20, 50))
    for method in METHODS:
        first, second = (
            solved(h, w, [0.5, 0.8], c=c, energy=energy, method=method, seed=3) for _ in range(2)
        )
        assert [s.w.tobytes() for s in first] == [s.w.tobytes() for s in second]


def test_order_of_methods() -> None:
    h, w, _, _ = layer(2, (1, 20, 64))
    error = {m: solved(h, w, [0.8], method=m)[0].error for m in METHODS}
    plain = solved(h, w, [0.8], method="magnitude", refit=False)[0]
    assert error["obs"] < error["magnitude"] < error["random"]
    assert error["auto"] == min(error["obs"], error["admm"])
    assert error["magnitude"] < plain.error
    np.testing.assert_array_equal(plain.w, w * plain.mask)


def test_lobs_with_and_without_refit() -> None:
    h, w, _, _ = layer(3, (1, 8, 20))
    published, repaired = (solved(h, w, [0.6], method="lobs", refit=r)[0] for r in (False, True))
    np.testing.assert_array_equal(published.mask, repaired.mask)
    assert repaired.error < published.error


@pytest.mark.parametrize("method", ["obs", "admm", "magnitude", "random", "auto"])
@pytest.mark.parametrize("text", ["2:4", "4:8", "1x4"])
def test_patterns(method: str, text: str) -> None:
    h, w, _, _ = layer(4, (2, 3, 22))
    for solution in solved(h, w, [0.5, 0.75], pattern=parse_pattern(text), method=method):
        assert follows(solution.mask, parse_pattern(text))
        assert follows(solution.w != 0, parse_pattern(text))


@pytest.mark.parametrize("method", METHODS)
def test_hard_moments(method: str) -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((8, 30)) * np.logspace(-6, 3, 30)
    x[:, [0, 11]] = 0
    w = rng.standard_normal((1, 4, 30))
    for damping in (0.0, 1e-12, 1e-2):
        for solution in solved(x.T @ x, w, [0.3, 0.8], method=method, damping=damping):
            assert np.isfinite(solution.w).all()
            assert 0 <= solution.error <= 1.0 + 1e-9
            assert solution.damping >= damping
            if method in ("obs", "admm"):
                assert not solution.mask[:, :, [0, 11]].any()
    (still,) = solved(np.zeros((30, 30)), w[0], [0.5], method=method)
    assert np.isfinite(still.w).all()
    assert still.error == 0.0


def test_groups_compete_for_one_budget() -> None:
    h, w, _, _ = layer(6, (10, 1, 9))
    h[:5] *= 1e4
    for method in ("obs", "admm"):
        (solution,) = solved(h, w, [0.5], method=method)
        assert solution.mask[:5].sum() > solution.mask[5:].sum()


def test_choice_and_errors() -> None:
    assert choose_method((1, 64, 144), 12) == "obs"
    assert choose_method((1, 512, 4608), 1) == "admm"
    assert choose_method((1, 64, 144), 12, parse_pattern("1x4")) == "admm"
    h, w, _, _ = layer(7, (1, 3, 10))
    for bad in ({"method": "best"}, {"effort": "huge", "method": "admm"}):
        with pytest.raises(OptionError, match="none of"):
            solved(h, w, [0.5], **bad)
    with pytest.raises(OptionError, match="between 0 and 1"):
        solved(h, w, [1.5])
    with pytest.raises(OptionError, match="single weights"):
        solved(h, w, [0.5], method="lobs", pattern=parse_pattern("2:4"))
    assert solved(h, w, [0.5])[0].sparsity == 0.5
