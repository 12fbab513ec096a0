"""Objects beyond the budget lie in files and come back as they were."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.calibration.second_moments import Moments
from obs_onnx.calibration.shelf import Shelf
from obs_onnx.passes.traits.linear import MatmulGeometry


def shelf_of(budget: int) -> Shelf[np.ndarray]:
    return Shelf(budget, lambda array: [array], lambda arrays: arrays[0])


@pytest.mark.parametrize("budget", [0, 100, 10_000])
def test_what_was_put_away_comes_back(budget: int) -> None:
    shelf = shelf_of(budget)
    arrays = {str(k): np.arange(10.0) + k for k in range(4)}
    shelf.update(arrays)
    assert set(shelf) == set(arrays)
    assert len(shelf) == 4
    for name in [*arrays, *arrays]:
        np.testing.assert_array_equal(shelf[name], arrays[name])


def test_memory_is_held_up_to_the_budget() -> None:
    shelf = shelf_of(160)
    arrays = {str(k): np.arange(10.0) + k for k in range(3)}
    shelf.update(arrays)
    assert [shelf[name] is arrays[name] for name in arrays] == [True, True, False]
    del shelf["0"]
    shelf["3"] = arrays["0"]
    assert shelf["3"] is arrays["0"]
    shelf["3"] = arrays["1"]
    assert shelf["3"] is arrays["1"]
    with pytest.raises(KeyError):
        shelf["0"]


@pytest.mark.parametrize("targeted", [False, True])
def test_moments_come_back_and_go_on(targeted: bool) -> None:
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(40, 6)).astype(np.float32), rng.normal(size=(40, 3)).astype(np.float32)
    target = (t,) if targeted else ()
    shelf = Shelf[Moments](0, Moments.arrays, Moments.of)
    shelf["one"] = moments = Moments((1, 3, 6), targeted)
    moments.update(x, MatmulGeometry(), *target)
    shelf["one"] = moments
    found = shelf["one"]
    for one in (moments, found):
        one.update(x[:7], MatmulGeometry(), *(part[:7] for part in target))
    assert found.count == moments.count == 47
    for mine, theirs in zip(found.arrays(), moments.arrays(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
