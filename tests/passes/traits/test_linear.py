"""Weight layouts: there and back, and the order of columns."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from obs_onnx.passes.traits.linear import WeightLayout


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
