"""Levels and samples that an effort affords, whatever the size of the model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from obs_onnx.pruning.effort import EFFORTS, LEAST_SAMPLES, Effort

EFFORT = Effort(
    levels=4, refinements=0, samples=100, macs=1e9, refitting=3e9, refining=1e11, widths=5, trials=4
)


def test_cheap_models_get_more_levels_and_dear_ones_those_of_the_effort() -> None:
    assert EFFORT.affordable(10, 100_000) == 10
    assert EFFORT.levels_for(10, 100_000) == 8  # the most there are
    assert EFFORT.levels_for(10, 160_000) == 6
    assert EFFORT.levels_for(10, 10**9) == 4
    assert EFFORT.affordable(0, 0) == 1e9


def test_a_model_of_moderate_size_is_measured_in_full() -> None:
    levels, samples = EFFORT.bounded(parts=2, macs=1000, nodes=3, samples=1000)
    assert (levels, samples) == (8, 100)
    assert EFFORT.bounded(parts=2, macs=1000, nodes=3, samples=60)[1] == 60


def test_fewer_samples_of_many_rows_will_do() -> None:
    for rows, samples in ((1, 100), (16, 100), (32, 50), (128, 25), (10**6, 25)):
        assert EFFORT.bounded(2, 1000, 3, samples=1000, rows=rows)[1] == samples
    assert EFFORT.bounded(2, 1000, 3, samples=9, rows=128)[1] == 9


@pytest.mark.parametrize("parts", [1, 30, 1000])
@pytest.mark.parametrize("macs", [10**6, 10**9, 10**12])
def test_huge_models_get_fewer_levels_and_samples_but_some(parts: int, macs: int) -> None:
    levels, samples = EFFORT.bounded(parts, macs, nodes=10, samples=1000)
    assert 2 <= levels <= 8
    assert min(LEAST_SAMPLES, 1000) <= samples <= 100
    if samples > LEAST_SAMPLES and levels > 2:
        assert parts * levels * (samples * macs / 2) <= 5 * EFFORT.macs


def test_whole_refits_are_done_where_all_of_them_are_cheap() -> None:
    layer = SimpleNamespace(layout=SimpleNamespace(goi=(2, 8, 100)))
    once = 3 * 256 * (1000 + 40 * 50) + 2 * 100**3
    times = int(EFFORT.refitting // once)
    assert EFFORT.refits(times, 1000, 50, [layer])
    assert not EFFORT.refits(times + 1, 1000, 50, [layer])


def test_wide_layers_are_solved_at_few_levels_and_once() -> None:
    narrow, wide = (SimpleNamespace(layout=SimpleNamespace(goi=goi)) for goi in ((4, 8, 100), (1, 512, 8192)))
    assert EFFORT.solved_levels(8, [narrow, narrow]) == 8
    assert EFFORT.solved_levels(8, [narrow, wide]) == 3
    assert EFFORT.solved_levels(2, [wide]) == 2
    assert EFFORT.solved_levels(8, []) == 8
    assert EFFORT.solves_again([narrow])
    assert not EFFORT.solves_again([narrow, wide])


def test_more_effort_is_never_less() -> None:
    quick, normal, thorough = (EFFORTS[name] for name in ("quick", "normal", "thorough"))
    for less, more in ((quick, normal), (normal, thorough)):
        assert all(getattr(less, name) <= getattr(more, name) for name in less.__dataclass_fields__)


def test_steps_of_all_weights_are_as_many_as_the_budget_allows() -> None:
    fewer = [EFFORT.refines(macs, 2000, 256) for macs in (10**3, 10**5, 10**6, 10**7)]
    amounts = [0 if steps is None else steps.steps * steps.products for steps in fewer]
    assert amounts == sorted(amounts, reverse=True)
    assert amounts[0] > amounts[1] > amounts[2] > 0 == amounts[3]
    for macs, steps in zip((10**3, 10**5, 10**6), fewer, strict=False):
        assert steps is not None
        assert steps.macs(macs, 2000, 256) <= EFFORT.refining
    assert EFFORTS["quick"].refines(1, 100, 32) is None
