"""The search against functions whose answer is known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obs_onnx.allocation.search import largest


class Search:
    """A function to search, and what it was asked."""

    def __init__(self, strain) -> None:
        self.strain, self.asked = strain, []

    def __call__(self, sparsity: float):
        assert 0 <= sparsity <= 0.999
        self.asked.append(sparsity)
        return self.strain(sparsity), sparsity


@given(
    limit=st.floats(0.2, 0.98),
    steep=st.floats(1, 12),
    bias=st.floats(0.3, 3),
    noise=st.floats(0, 0.05),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_what_is_found_holds(limit: float, steep: float, bias: float, noise: float, seed: int) -> None:
    def expected(s: float) -> float:
        return math.exp(steep * (s - limit))

    strains: dict[float, float] = {}

    def noisy(s: float) -> float:
        strains[s] = expected(s) * math.exp(noise * math.sin(1e4 * s + seed))
        return strains[s]

    search = Search(noisy)
    found = largest(search, lambda s: bias * expected(s), tolerance=0.01, trials=8)
    assert 1 <= len(search.asked) <= 8
    held = [s for s, strain in strains.items() if strain <= 1]
    if found is None:
        assert not held
    else:
        assert found.sparsity == found.result == max(held)
        if noise == 0:
            assert found.sparsity >= limit - 0.05


@pytest.mark.parametrize("limit", [0.3, 0.6, 0.9, 0.97])
def test_a_good_prediction_needs_few_trials(limit: float) -> None:
    search = Search(lambda s: math.exp(8 * (s - limit)))
    found = largest(search, search.strain, tolerance=0.01, trials=6)
    assert found is not None
    assert limit - 0.01 <= found.sparsity <= limit
    assert len(search.asked) <= 3


def test_nothing_or_everything_holds() -> None:
    never = Search(lambda s: 2 + s)
    assert largest(never, lambda s: s, tolerance=0.01, trials=5) is None
    assert len(never.asked) == 5
    always = Search(lambda s: 0.0)
    found = largest(always, lambda s: 0.0, tolerance=0.01, trials=5)
    assert found is not None
    assert found.sparsity == pytest.approx(0.999)
    assert len(always.asked) == 1


def test_a_failed_trial_is_never_returned() -> None:
    cliff = Search(lambda s: 0.5 if s < 0.63 else 50.0)
    found = largest(cliff, lambda s: s, tolerance=0.01, trials=12)
    assert found is not None
    assert 0.55 < found.sparsity < 0.63


@pytest.mark.parametrize("off", [0.02, 0.2])
def test_a_prediction_that_is_far_off_still_leads_to_something(off: float) -> None:
    """The strain stays on a plateau where the prediction falls fast."""

    def strain(s: float) -> float:
        return 1.2 + s if s > 0.2 else 4 * s

    search = Search(strain)
    found = largest(search, lambda s: off * math.exp(6 * (s - 0.5)), tolerance=0.01, trials=4)
    assert found is not None
    assert 0.05 < found.sparsity <= 0.2
    assert len(search.asked) <= 4
