"""Where an allocation stands, against costs and damages computed anew."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.allocation.channel_state import Problem, State
from obs_onnx.allocation.curves import Curve
from obs_onnx.passes.costs.polynomials import Polynomial

SIZES = {3: 8, 5: 6, 7: 10}
LEVELS = {3: np.array([1, 4, 8]), 5: np.array([2, 3, 5, 6]), 7: np.array([5, 10])}
COSTS = [
    Polynomial({((3, 1), (5, 1)): 2.0, ((7, 1),): 3.0, (): 5.0}, SIZES),
    Polynomial({((5, 2),): 1.0, ((5, 1), (7, 1)): 4.0}, SIZES),
]


def curve(n: int, scale: float) -> Curve:
    shares = (0.25, 0.5, 0.75)
    return Curve(n, shares, tuple(scale * s**2 for s in shares), (0.0,) * 3)


CURVES = {3: curve(8, 1.0), 5: curve(6, 3.0), 7: curve(10, 0.5)}


@pytest.fixture
def problem() -> Problem:
    return Problem.of(CURVES, LEVELS, [(cost, 10.0) for cost in COSTS])


def assert_consistent(state: State) -> None:
    """All that is remembered is what it would be if computed now."""
    problem = state.problem
    damage = 0.0
    for number, group in enumerate(problem.groups):
        levels = LEVELS[group]
        span = problem.spans[number]
        damages = CURVES[group].damage(1 - levels / SIZES[group])
        damage += damages[state.at[number] - span.start]
        np.testing.assert_allclose(state.extra()[span], damages - damages[state.at[number] - span.start])
        np.testing.assert_array_equal(
            state.steps()[span], np.arange(span.start, span.stop) - state.at[number]
        )
        for j, cost in enumerate(COSTS):
            now = cost.value(state.counts)
            saved = [now - cost.value({**state.counts, group: int(n)}) for n in levels]
            np.testing.assert_allclose(state.savings[j, span], saved, atol=1e-9)
    assert state.damage == pytest.approx(damage)
    np.testing.assert_allclose(state.values, [cost.value(state.counts) for cost in COSTS])


def test_at_first_everything_is_kept(problem: Problem) -> None:
    state = problem.start()
    assert state.counts == SIZES
    assert state.damage == 0
    assert_consistent(state)


def test_a_start_at_given_counts(problem: Problem) -> None:
    state = problem.start({3: 4, 5: 2, 7: 10})
    assert state.counts == {3: 4, 5: 2, 7: 10}
    assert_consistent(state)


def test_moves_up_and_down_and_copies_of_their_own(problem: Problem) -> None:
    state = problem.start()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(problem.kept), 20):
        before = state.copy()
        kept = dict(state.counts)
        state.move(int(place))
        group = problem.groups[problem.owner[place]]
        assert state.counts == {**kept, group: int(problem.kept[place])}
        assert before.counts == kept
        assert_consistent(state)
        assert_consistent(before)
