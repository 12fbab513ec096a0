"""Activations in memory and in files."""

from __future__ import annotations

import mmap
import sys

import numpy as np
import psutil
import pytest
from layer_runs import LARGE, normal

from obs_onnx.calibration.activation_cache import ActivationCache


def in_file(array: np.ndarray) -> bool:
    return isinstance(array.base, mmap.mmap)


def resident() -> int:
    """Bytes of this process in memory."""
    return psutil.Process().memory_info().rss


class TestActivations:
    @pytest.mark.parametrize("budget", [0, 100, LARGE])
    def test_values_stay_what_they_are(self, budget: int) -> None:
        held = ActivationCache(budget)
        arrays = [
            {"a": normal(0, 3, 4), "b": np.arange(5), "c": np.array(2.5), "d": np.zeros((0, 3))},
            {"a": normal(1, 7, 4).astype(np.float16), "b": np.array([True, False])},
        ]
        for values in arrays:
            held.append(values)
        assert len(held) == 2
        for values, expected in zip(held, arrays, strict=True):
            assert set(values) == set(expected)
            for name, array in expected.items():
                assert values[name].dtype == array.dtype
                np.testing.assert_array_equal(values[name], array)
        spilled = [in_file(array) for values in held for array in values.values()]
        assert any(spilled) == (budget < LARGE)

    def test_what_stays_is_not_written_again_and_what_goes_makes_room(self) -> None:
        held = ActivationCache(100)
        held.append({"a": np.zeros(10), "b": np.ones(10)})
        assert [in_file(array) for array in held[0].values()] == [False, True]
        kept = held[0]["b"]
        held.replace(0, {"b": kept, "c": np.full(10, 2.0)})
        assert held[0]["b"] is kept
        assert not isinstance(held[0]["c"], np.memmap)
        assert set(held[0]) == {"b", "c"}

    @pytest.mark.skipif(sys.platform == "win32", reason="the system itself takes pages back")
    def test_of_files_one_batch_is_in_memory(self) -> None:
        held, size = ActivationCache(0), 8 << 20
        before = resident()
        for number in range(16):
            held.append({"a": np.full(size // 4, number, np.float32)})
        assert [values["a"][-1] for values in held] == list(range(16))
        sums = [float(values["a"].mean()) for values in held]
        assert sums == list(range(16))
        assert resident() - before < 4 * size

    def test_memory_of_others_is_not_held(self) -> None:
        held, whole = ActivationCache(LARGE), np.arange(10)
        held.append({"own": whole, "part": whole[2:4]})
        assert held[0]["own"] is whole
        assert held[0]["part"].flags.owndata
        np.testing.assert_array_equal(held[0]["part"], [2, 3])
