from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest

from obs_onnx.passes.errors import OptionError
from obs_onnx.solvers import Problem, follows, parse_pattern, prepare, refit
from obs_onnx.solvers.obs import obs_path

Maker = Callable[..., Problem]


def objective(problem: Problem, g: int, o: int, support: list[int]) -> float:
    """Smallest ``w^T A w - 2 b^T w`` on a support."""
    if not support:
        return 0.0
    b = problem.b[g, o, support]
    return -float(b @ np.linalg.solve(problem.a[g][np.ix_(support, support)], b))


@pytest.mark.parametrize("shape", [(2, 3, 9), (1, 2, 45)])
def test_path_is_remove_one_and_solve_again(random_problem: Maker, shape: tuple[int, int, int]) -> None:
    problem = random_problem(0, shape)
    path = obs_path(problem)
    for g, o in np.ndindex(shape[:2]):
        support = list(range(shape[2]))
        for step in range(shape[2]):
            now = objective(problem, g, o, support)
            losses = [objective(problem, g, o, [s for s in support if s != q]) - now for q in support]
            best = int(np.argmin(losses))
            assert path.order[g, o, step] == support[best]
            assert path.loss[g, o, step] == pytest.approx(losses[best], rel=1e-6)
            support.pop(best)


def test_path_beyond_several_blocks_of_downdates(random_problem: Maker) -> None:
    problem = random_problem(1, (2, 3, 130))
    path = obs_path(problem)
    np.testing.assert_array_equal(np.sort(path.order, axis=2), np.broadcast_to(np.arange(130), (2, 3, 130)))
    for count in (40, 90, 129):
        mask = np.ones(problem.w.shape, bool)
        np.put_along_axis(mask, path.order[:, :, :count], False, axis=2)
        moved = refit(problem, mask) - problem.optimum
        expected = ((moved @ problem.a) * moved).sum(axis=2)
        np.testing.assert_allclose(path.loss[:, :, :count].sum(axis=2), expected, rtol=1e-6)


@pytest.mark.parametrize("removed", [1, 5])
def test_best_of_all_supports_where_inputs_are_uncorrelated(removed: int) -> None:
    rng = np.random.default_rng(2)
    problem = prepare(np.diag(rng.random(6) + 0.1), rng.standard_normal((1, 1, 6)), damping=1e-6)
    path = obs_path(problem)
    supports = [list(s) for s in combinations(range(6), 6 - removed)]
    best = min(supports, key=lambda s: objective(problem, 0, 0, s))
    assert np.flatnonzero(path.mask(removed / 6)[0, 0]).tolist() == best


@pytest.mark.parametrize("seed", range(10))
def test_first_removal_is_the_best_of_all_supports(random_problem: Maker, seed: int) -> None:
    problem = random_problem(seed, (1, 1, 8))
    path = obs_path(problem)
    supports = [list(s) for s in combinations(range(8), 7)]
    best = min(supports, key=lambda s: objective(problem, 0, 0, s))
    assert np.flatnonzero(path.mask(1 / 8)[0, 0]).tolist() == best


def test_masks_are_prefixes_and_follow_the_budget(random_problem: Maker) -> None:
    problem = random_problem(3, (3, 4, 20))
    path = obs_path(problem)
    previous = np.ones(problem.w.shape, bool)
    for sparsity in (0.0, 0.1, 0.5, 0.9, 1.0):
        mask = path.mask(sparsity)
        assert (~mask).sum() == round(sparsity * mask.size)
        assert (mask <= previous).all()
        for g, o in np.ndindex(3, 4):
            count = int((~mask[g, o]).sum())
            assert set(np.flatnonzero(~mask[g, o])) == set(path.order[g, o, :count].tolist())
        previous = mask


@pytest.mark.parametrize("columns", [12, 14, 15])
@pytest.mark.parametrize("text", ["2:4", "1:4", "3:5"])
def test_nm_path(random_problem: Maker, columns: int, text: str) -> None:
    pattern = parse_pattern(text)
    problem = random_problem(4, (2, 3, columns))
    path = obs_path(problem, pattern)
    mask = path.mask(0.5)
    assert follows(mask, pattern)
    for first in range(0, columns, pattern.columns):
        width = min(pattern.columns, columns - first)
        kept = mask[:, :, first : first + width].sum(axis=2)
        assert (kept == min(width, pattern.rows)).all()
    assert path.mask(0.0).all()


@pytest.mark.parametrize("columns", [12, 14])
def test_block_path_is_remove_one_and_solve_again(random_problem: Maker, columns: int) -> None:
    pattern = parse_pattern("1x4")
    problem = random_problem(5, (2, 2, columns))
    path = obs_path(problem, pattern)
    for g, o in np.ndindex(2, 2):
        blocks = [list(range(first, min(first + 4, columns))) for first in range(0, columns, 4)]
        alive = list(range(len(blocks)))
        for step in range(len(blocks)):
            now = objective(problem, g, o, [i for b in alive for i in blocks[b]])
            rest = {q: [i for b in alive if b != q for i in blocks[b]] for q in alive}
            losses = [(objective(problem, g, o, rest[q]) - now) / len(blocks[q]) for q in alive]
            best = int(np.argmin(losses))
            assert path.order[g, o, step] == alive[best]
            assert path.loss[g, o, step] == pytest.approx(losses[best], rel=1e-6)
            alive.pop(best)
    assert follows(path.mask(0.5), pattern)


def test_dead_inputs_go_first() -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((60, 10))
    x[:, [2, 7]] = 0
    problem = prepare(x.T @ x, rng.standard_normal((1, 5, 10)))
    mask = obs_path(problem).mask(0.2)
    assert not mask[:, :, [2, 7]].any()
    assert mask.sum() == 40


def test_rank_deficient_and_ill_conditioned_moments() -> None:
    rng = np.random.default_rng(7)
    x = rng.standard_normal((12, 40)) * np.logspace(-5, 5, 40)
    problem = prepare(x.T @ x, rng.standard_normal((1, 3, 40)), damping=1e-8)
    path = obs_path(problem)
    np.testing.assert_array_equal(np.sort(path.order[0], axis=1), np.tile(np.arange(40), (3, 1)))
    assert np.isfinite(path.loss).all()


def test_blocks_of_several_rows_are_refused(random_problem: Maker) -> None:
    with pytest.raises(OptionError, match="admm"):
        obs_path(random_problem(8, (1, 4, 8)), parse_pattern("2x2"))
