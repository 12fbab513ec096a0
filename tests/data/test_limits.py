"""What data may take of the memory: what is refused, and from which byte on."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from obs_onnx.data import limits
from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.limits import check_batch, check_room, room
from obs_onnx.passes.errors import DataError, OptionError

FREE = 2400


@pytest.fixture(autouse=True)
def little_memory(monkeypatch) -> None:
    monkeypatch.setattr(limits.psutil, "virtual_memory", lambda: SimpleNamespace(available=FREE))


def spec(*shape: int | str | None, dtype: type = np.float32) -> TensorSpec:
    return TensorSpec("x", shape, np.dtype(dtype))


def test_room_is_what_is_given_or_half_of_what_is_free() -> None:
    assert room(7) == 7
    assert room() == FREE // 2


def test_what_fits_exactly_is_made_and_one_byte_more_is_not() -> None:
    check_room("it", 100, memory=100)
    check_room("it", FREE // 2)
    with pytest.raises(DataError, match="it takes 101 bytes of memory, more than the 100 bytes that"):
        check_room("it", 101, memory=100)
    with pytest.raises(DataError, match="give smaller samples"):
        check_room("it", FREE // 2 + 1)


@pytest.mark.parametrize(
    ("specs", "most"),
    [
        ([spec("N", 3, 5)], 20),  # 60 bytes for each sample
        ([spec(None, 3, 5, dtype=np.float64)], 10),
        ([spec("N", 3, "H", None)], 100),  # free sizes are at least one
        ([spec("N", 3, 5), spec("N", 20, dtype=np.int8)], 15),
        ([spec("N", 3, 5), spec(4, 1000)], 20),  # of a fixed size, whatever the batch
    ],
)
def test_a_batch_takes_what_its_inputs_take(specs: list[TensorSpec], most: int) -> None:
    check_batch(specs, most)
    with pytest.raises(OptionError, match=f"batch.* {most + 1}: its inputs take .* give a smaller one"):
        check_batch(specs, most + 1)


def test_inputs_without_a_free_batch_are_not_counted() -> None:
    check_batch([spec(), TensorSpec("x", None, np.dtype(np.float32)), spec(1, 10**9)], 10**9)
