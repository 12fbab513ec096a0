"""Weight layouts: there and back, and the order of columns."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obs_onnx.passes.traits.linear import Integers, WeightLayout, packed, unpacked


@st.composite
def layouts(draw: st.DrawFn) -> WeightLayout:
    """Layouts of the kinds that the operator tables make."""
    groups, outputs, inputs = (draw(st.integers(1, 4)) for _ in range(3))
    kernel = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    spatial = tuple(range(3, 3 + len(kernel)))
    scale = draw(st.sampled_from([1.0, -0.5, 3.0]))
    goi = (groups, outputs, inputs * math.prod(kernel))
    if draw(st.booleans()):
        split = (groups, outputs, inputs, *kernel)
        return WeightLayout((groups * outputs, inputs, *kernel), split, (0, 1, *spatial, 2), goi, scale)
    split = (groups, inputs, outputs, *kernel)
    return WeightLayout((groups * inputs, outputs, *kernel), split, (0, 2, *spatial, 1), goi, scale)


class TestLayout:
    @settings(max_examples=200, deadline=None)
    @given(layouts())
    def test_round_trip(self, layout):
        tensor = np.arange(math.prod(layout.shape), dtype=np.float32).reshape(layout.shape)
        w_GOI = layout.to_matrix(tensor)
        assert w_GOI.shape == layout.goi
        assert w_GOI.dtype == np.float64
        np.testing.assert_array_equal(np.sort(w_GOI / layout.scale, axis=None), tensor.reshape(-1))
        np.testing.assert_allclose(layout.to_tensor(w_GOI), tensor, rtol=1e-15)

    def test_convolution_columns_are_offsets_then_channels(self, find):
        (layer,), _ = find(
            "g (float[N,6,9] x) => (float[N,4,7] y) { y = Conv <group = 2> (x, w) }", {"w": (4, 3, 3)}
        )
        tensor = np.arange(36).reshape(4, 3, 3)
        w_GOI = layer.layout.to_matrix(tensor)
        assert w_GOI.shape == (2, 2, 9)
        for g, o, k, i in np.ndindex(2, 2, 3, 3):
            assert w_GOI[g, o, k * 3 + i] == tensor[g * 2 + o, i, k]

    def test_transposed_convolution_columns(self, find):
        (layer,), _ = find(
            "g (float[N,6,9] x) => (float[N,4,11] y) { y = ConvTranspose <group = 2> (x, w) }",
            {"w": (6, 2, 3)},
        )
        tensor = np.arange(36).reshape(6, 2, 3)
        w_GOI = layer.layout.to_matrix(tensor)
        assert w_GOI.shape == (2, 2, 9)
        for g, o, k, i in np.ndindex(2, 2, 3, 3):
            assert w_GOI[g, o, k * 3 + i] == tensor[g * 3 + i, o, k]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_numbers_come_back_from_bytes(bits: int) -> None:
    numbers = np.random.default_rng(0).integers(0, 1 << bits, (3, 7)).astype(np.uint8)
    assert packed(numbers, bits).shape == (3, -(-7 * bits // 8))
    np.testing.assert_array_equal(unpacked(packed(numbers, bits), bits, 7), numbers)


def test_the_lowest_bits_of_a_byte_come_first() -> None:
    assert packed(np.array([[3, 10]], np.uint8), 4)[0, 0] == 3 + 16 * 10


def test_scales_of_blocks() -> None:
    form = Integers("q", "s", "z", (2, 5), (2, 2), 3, 0, 255, 128)
    arrays = {
        "q": np.arange(10, dtype=np.uint8).reshape(2, 5),
        "s": np.array([[1, 10], [100, 1000]], np.float32),
        "z": np.array([[0, 1], [2, 3]], np.uint8),
    }
    expected = [[0, 1, 2, 20, 30], [300, 400, 500, 5000, 6000]]
    np.testing.assert_array_equal(form.values(arrays), expected)
    scale, zero = form.steps(arrays)
    again = form.stored(arrays, form.integers(arrays), scale, zero)
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)


@pytest.mark.parametrize("flat", [False, True])
def test_the_last_block_of_bytes_may_be_shorter(flat: bool) -> None:
    """Rows of 10 numbers of 4 bits in blocks of 4; zero points of 3 blocks lie in 2 bytes."""
    rng = np.random.default_rng(0)
    q, zero = rng.integers(0, 16, (3, 10)).astype(np.uint8), rng.integers(0, 16, (3, 3)).astype(np.uint8)
    scale = rng.uniform(1, 2, (3, 3)).astype(np.float32)
    blocks = np.pad(q, ((0, 0), (0, 2))).reshape(3, 3, 4)
    arrays = {"q": packed(blocks, 4), "s": scale, "z": packed(zero, 4)}
    if flat:
        arrays |= {name: arrays[name].reshape(-1) for name in ("s", "z")}
    form = Integers("q", "s", "z", (3, 10), (3, 3), 4, 0, 15, 8, bits=4)
    places = np.arange(10) // 4
    values = (q.astype(float) - zero[:, places]) * scale[:, places]
    np.testing.assert_allclose(form.values(arrays), values, rtol=1e-6)
    again = form.stored(arrays, q, scale, zero)
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)
    opened = form.opened(values)
    assert opened.shape == (3, 3, 4)
    np.testing.assert_array_equal(opened.reshape(3, -1)[:, :10], values)
