from collections.abc import Callable

import numpy as np
import pytest

from obs_onnx.solvers import Problem, admm, follows, parse_pattern, refit
from obs_onnx.solvers.admm import admm_levels
from obs_onnx.solvers.baselines import magnitude_mask
from obs_onnx.solvers.obs import obs_path

Maker = Callable[..., Problem]


@pytest.mark.parametrize("shape", [(1, 12, 80), (6, 4, 12)])
def test_as_good_as_the_surgeon(random_problem: Maker, shape: tuple[int, int, int]) -> None:
    problem = random_problem(0, shape)
    path = obs_path(problem)
    levels, slack = (0.5, 0.8, 0.9), (1.3, 1.08, 1.03)
    found = admm_levels(problem, levels)
    for sparsity, (mask, close), most in zip(levels, found, slack, strict=True):
        assert (~mask).sum() == round(sparsity * mask.size)
        surgeon = problem.error(refit(problem, path.mask(sparsity)))
        error = problem.error(refit(problem, mask))
        assert error < most * surgeon
        assert error < problem.error(refit(problem, magnitude_mask(problem.w, sparsity)))
        assert not close[~mask].any()
        assert problem.error(close) < 1.2 * error


@pytest.mark.parametrize("text", ["2:4", "1x4", "2x2", "3x5"])
def test_patterns(random_problem: Maker, text: str) -> None:
    pattern = parse_pattern(text)
    problem = random_problem(1, (1, 6, 42))
    ((mask, _),) = admm_levels(problem, [0.5], pattern)
    assert follows(mask, pattern)
    magnitude = refit(problem, magnitude_mask(problem.w, 0.5, pattern))
    assert problem.error(refit(problem, mask)) < problem.error(magnitude)


def test_levels_do_not_depend_on_each_other(random_problem: Maker) -> None:
    problem = random_problem(2, (1, 5, 30))
    together = [mask for mask, _ in admm_levels(problem, [0.0, 0.6, 0.9, 1.0])]
    assert together[0].all()
    assert not together[3].any()
    ((alone, _),) = admm_levels(problem, [0.9])
    np.testing.assert_array_equal(together[2], alone)


def test_a_wide_layer_keeps_no_factor(random_problem: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, let_go = random_problem(4, (1, 6, 80)), random_problem(4, (1, 6, 80))
    ((mask, close),) = admm_levels(kept, [0.7])
    monkeypatch.setattr(admm, "_WIDE", 80)
    ((other, near),) = admm_levels(let_go, [0.7])
    assert (len(kept.factors), len(let_go.factors)) == (1, 0)
    np.testing.assert_array_equal(mask, other)
    np.testing.assert_array_equal(close, near)
    np.testing.assert_allclose(let_go.inverse, kept.inverse, rtol=1e-9, atol=1e-12)
