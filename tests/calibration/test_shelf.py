"""Objects beyond the budget lie in files and come back as they were."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.calibration.shelf import Shelf


@pytest.mark.parametrize("budget", [0, 100, 10_000])
def test_what_was_put_away_comes_back(budget: int) -> None:
    shelf = Shelf[np.ndarray](budget, lambda array: array.nbytes)
    arrays = {str(k): np.arange(10.0) + k for k in range(4)}
    shelf.update(arrays)
    assert set(shelf) == set(arrays)
    assert len(shelf) == 4
    for name in [*arrays, *arrays]:
        np.testing.assert_array_equal(shelf[name], arrays[name])


def test_memory_is_held_up_to_the_budget() -> None:
    shelf = Shelf[np.ndarray](160, lambda array: array.nbytes)
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
