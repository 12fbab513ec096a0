from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from obs_onnx.passes.errors import DataError
from obs_onnx.solvers import Problem, prepare, refit
from obs_onnx.solvers import structured_obs as structured
from obs_onnx.solvers.structured_obs import Consumer, greedy_order, refit_columns

Maker = Callable[..., Problem]


def regression(rng: np.random.Generator, shape: tuple[int, int, int], damping: float = 1e-3) -> Problem:
    """Correlated inputs, and a target that the dense weights do not fit best."""
    groups, rows, columns = shape
    x = rng.standard_normal((groups, 3 * columns, columns)) * np.exp(rng.standard_normal(columns))
    x[..., 1:] += x[..., :-1]
    t = x @ rng.standard_normal((groups, columns, rows)) + rng.standard_normal((groups, 3 * columns, rows))
    w = rng.standard_normal(shape)
    return prepare(x.swapaxes(1, 2) @ x, w, x.swapaxes(1, 2) @ t, damping=damping)


def columns_of(owner: np.ndarray, n: int) -> csr_array:
    """Columns by channel from the channel of every column, -1 for none."""
    return csr_array(owner[None, :] == np.arange(n)[:, None])


def equal_columns(n: int, size: int) -> csr_array:
    return columns_of(np.repeat(np.arange(n), size), n)


def energy(consumer: Consumer, removed: Sequence[int]) -> float:
    """Damped, weighted quadratic error at the minimum without the ``removed`` channels."""
    problem = consumer.problem
    groups, rows, columns = problem.w.shape
    weights = np.ones((groups, rows))
    if consumer.row_weights is not None:
        weights = consumer.row_weights.reshape(groups, rows)
    gone = consumer.columns.toarray()[list(removed)].any(axis=0).reshape(groups, columns)
    total = 0.0
    for g in range(groups):
        s = np.flatnonzero(~gone[g])
        b = problem.b[g][:, s]
        w = np.linalg.solve(problem.a[g][np.ix_(s, s)], b.T).T
        total -= float(weights[g] @ (w * b).sum(axis=1))
    return total


def excess(consumers: Sequence[Consumer], removed: Sequence[int]) -> float:
    return sum(energy(consumer, removed) - energy(consumer, []) for consumer in consumers)


def channel_losses(consumers: Sequence[Consumer]) -> np.ndarray:
    """Losses (n,) of removing each channel alone from the optimum, everything else refitted (eq. 1)."""
    return structured._state(consumers, np.ones(consumers[0].columns.shape[0], bool)).losses()


def naive_order(consumers: Sequence[Consumer], n: int) -> list[int]:
    order: list[int] = []
    while len(order) < n:
        left = [channel for channel in range(n) if channel not in order]
        order.append(min(left, key=lambda channel: excess(consumers, [*order, channel])))
    return order


@st.composite
def coupled(draw: st.DrawFn) -> tuple[list[Consumer], int]:
    """Several consumers with groups, ragged or empty sets of columns in any order, row weights."""
    n = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    consumers = []
    for _ in range(draw(st.integers(1, 3))):
        shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 8)))
        owner = rng.integers(-1, n, shape[0] * shape[2])
        weights = rng.exponential(size=shape[0] * shape[1]) if draw(st.booleans()) else None
        consumers.append(Consumer(regression(rng, shape), columns_of(owner, n), weights))
    return consumers, n


@settings(max_examples=60, deadline=None)
@given(coupled())
def test_order_and_losses_equal_direct_refits(case: tuple[list[Consumer], int]) -> None:
    consumers, n = case
    scale = 1e-9 * abs(sum(energy(consumer, []) for consumer in consumers))
    alone = [excess(consumers, [channel]) for channel in range(n)]
    np.testing.assert_allclose(channel_losses(consumers), alone, rtol=1e-7, atol=scale)
    result = greedy_order(consumers, n)
    cumulative = [excess(consumers, result.order[: k + 1].tolist()) for k in range(n)]
    np.testing.assert_allclose(result.losses, cumulative, rtol=1e-7, atol=scale)
    assert (np.diff(result.losses) >= 0).all()
    touched = [c for c in range(n) if any(x.columns.toarray()[c].any() for x in consumers)]
    assert [c for c in result.order if c in touched] == [c for c in naive_order(consumers, n) if c in touched]


@settings(max_examples=30, deadline=None)
@given(coupled(), st.randoms(use_true_random=False))
def test_any_set_costs_what_its_refit_costs(case: tuple[list[Consumer], int], random) -> None:
    consumers, n = case
    removed = random.sample(range(n), random.randint(0, n))
    fixed = ~np.isin(np.arange(n), removed)
    result = greedy_order(consumers, n, fixed)
    assert sorted(result.order) == list(range(n))
    assert set(result.order[: len(removed)]) == set(removed)
    assert np.isinf(result.losses[len(removed) :]).all()
    if removed:
        scale = 1e-9 * abs(sum(energy(consumer, []) for consumer in consumers))
        assert result.losses[len(removed) - 1] == pytest.approx(
            excess(consumers, removed), rel=1e-7, abs=scale
        )


def wide(seed: int, n: int = 130, size: int = 2) -> list[Consumer]:
    """Two consumers of channels with few common factors, so that channels stand in for each other."""
    rng = np.random.default_rng(seed)
    consumers = []
    for rows in (5, 2 * n * size):
        x = rng.standard_normal((800, 12)) @ rng.standard_normal((12, n * size))
        x = np.maximum(x + 0.3 * rng.standard_normal(x.shape), 0.0)
        problem = prepare((x.T @ x)[None], rng.standard_normal((1, rows, n * size)), damping=1e-3)
        consumers.append(Consumer(problem, equal_columns(n, size), rng.exponential(size=rows)))
    return consumers


@pytest.mark.parametrize("parts", [2, 8, 64])
def test_many_channels_a_step_stay_close_to_one_at_a_time(parts: int) -> None:
    consumers = wide(0)
    fast, exact = greedy_order(consumers, 130, parts=parts), greedy_order(consumers, 130, parts=None)
    assert (fast.losses / exact.losses).max() < (1.1 if parts == 2 else 1.02)
    assert sorted(fast.order) == list(range(130))
    assert (np.diff(fast.losses) >= 0).all()
    for k in (1, 40, 129):
        assert fast.losses[k] == pytest.approx(excess(consumers, fast.order[: k + 1].tolist()), rel=1e-7)


def test_one_part_takes_all_channels_in_one_step() -> None:
    consumers = [Consumer(regression(np.random.default_rng(1), (1, 3, 12)), equal_columns(6, 2))]
    assert greedy_order(consumers, 6, parts=1).order.tolist() == naive_order(consumers, 6)


@pytest.mark.parametrize("parts", [None, 8])
def test_lazy_downdates_equal_eager_ones(monkeypatch: pytest.MonkeyPatch, parts: int | None) -> None:
    consumers, results = wide(2), []
    for columns, share in ((1, 0.0), (40, 0.1), (10**6, 0.0)):
        monkeypatch.setattr(structured, "_FLUSH_COLUMNS", columns)
        monkeypatch.setattr(structured, "_FLUSH_SHARE", share)
        results.append(greedy_order(consumers, 130, parts=parts))
    for result in results[1:]:
        np.testing.assert_array_equal(result.order, results[0].order)
        np.testing.assert_allclose(result.losses, results[0].losses, rtol=1e-9)


def test_depthwise_consumers_add_up_without_interaction(random_problem: Maker) -> None:
    problem = random_problem(3, (7, 2, 9))
    weights = np.random.default_rng(4).exponential(size=14)
    consumer = Consumer(problem, equal_columns(7, 9), weights)
    losses = channel_losses([consumer])
    explained = np.einsum("goi,goi->go", problem.b, problem.optimum)
    np.testing.assert_allclose(losses, (explained * weights.reshape(7, 2)).sum(1), rtol=1e-9)
    result = greedy_order([consumer], 7)
    np.testing.assert_array_equal(result.order, np.argsort(losses))
    np.testing.assert_allclose(result.losses, np.cumsum(np.sort(losses)), rtol=1e-12)


def test_a_channel_in_every_group(random_problem: Maker) -> None:
    owner = np.tile(np.repeat(np.arange(5), 4), 3)
    consumer = Consumer(random_problem(5, (3, 4, 20)), columns_of(owner, 5))
    result = greedy_order([consumer], 5)
    assert result.order.tolist() == naive_order([consumer], 5)
    assert result.losses[2] == pytest.approx(excess([consumer], result.order[:3].tolist()), rel=1e-8)


def test_dead_channels_go_first_and_for_nothing() -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((90, 24))
    x[:, 9:12] = x[:, 15:18] = 0.0
    w = rng.standard_normal((1, 4, 24))
    w[..., 9:12] *= 1e3
    consumer = Consumer(prepare(x.T @ x, w), equal_columns(8, 3))
    result = greedy_order([consumer], 8)
    assert result.order[:2].tolist() == [3, 5]
    assert (result.losses[:2] == 0).all()
    assert result.losses[2] > 0
    assert channel_losses([consumer])[3] == 0


@pytest.mark.parametrize("damping", [0.0, 1e-10])
def test_copies_of_channels_are_free_and_nothing_overflows(damping: float) -> None:
    rng = np.random.default_rng(7)
    x = np.tile(rng.standard_normal((200, 20)), 2)
    problem = prepare(x.T @ x, rng.standard_normal((1, 6, 40)), damping=damping)
    consumer = Consumer(problem, equal_columns(8, 5))
    result = greedy_order([consumer], 8)
    assert np.isfinite(result.losses).all()
    assert len({channel % 4 for channel in result.order[4:]}) == 4
    assert result.losses[3] < 1e-5 * result.losses[4]
    assert result.losses[-1] == pytest.approx(float((problem.b * problem.optimum).sum()), rel=1e-3)


@pytest.mark.parametrize("shape", [(3, 3), (4, 3, 3)])
def test_factors_of_matrices_that_lost_their_definiteness(shape: tuple[int, ...]) -> None:
    p = np.zeros(shape)
    p[...] = np.diag([1.0, -1e-9, 4.0])
    p[..., 0, 2] = p[..., 2, 0] = 2.0 + 1e-7
    floor = np.full(shape[:-1], 1e-12)
    lower = structured._cholesky(p, floor)
    np.testing.assert_allclose(lower @ lower.swapaxes(-1, -2), p, atol=1e-9)
    np.testing.assert_allclose(np.einsum("...kk->...k", p), np.broadcast_to([1, 0, 4], shape[:-1]), atol=1e-6)


def test_no_consumer_makes_channels_free() -> None:
    result = greedy_order([], 3, np.array([True, False, False]))
    assert result.order.tolist() == [1, 2, 0]
    assert result.losses.tolist() == [0, 0, np.inf]


def test_wrong_arrays_are_named(random_problem: Maker) -> None:
    problem = random_problem(8, (1, 2, 6))
    good = equal_columns(3, 2)
    both = csr_array(np.ones((3, 6), bool))
    for consumer, message in (
        (Consumer(problem, equal_columns(2, 2)), r"columns of shape \(2, 4\)"),
        (Consumer(problem, both), "more than one channel"),
        (Consumer(problem, good, np.array([1.0, -1.0])), "row weights"),
        (Consumer(problem, good, np.ones(3)), "row weights"),
    ):
        with pytest.raises(DataError, match=message):
            greedy_order([consumer], 3)
    with pytest.raises(DataError, match="fixed"):
        greedy_order([Consumer(problem, good)], 3, np.zeros(2, bool))


@pytest.mark.parametrize("shape", [(1, 5, 9), (6, 3, 9), (2, 5, 70)])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_refit_columns_is_the_refit_of_every_row(
    random_problem: Maker, shape: tuple[int, int, int], share: float
) -> None:
    problem = random_problem(9, shape)
    kept = np.random.default_rng(10).random(shape[0] * shape[2]) < share
    w = refit_columns(problem, kept)
    mask = np.broadcast_to(kept.reshape(shape[0], 1, shape[2]), shape)
    assert (w[~mask] == 0).all()
    np.testing.assert_allclose(w, refit(problem, mask), rtol=1e-8, atol=1e-10)
