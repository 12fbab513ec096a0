"""Derivatives of convolutions against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from derivatives import check
from hypothesis import assume, given, settings
from hypothesis import strategies as st

rng = np.random.default_rng(11)


def normal(*shape):
    return rng.standard_normal(shape)


@st.composite
def convolutions(draw):
    """Shapes of x and w, and attributes, of a convolution with one output position at least."""
    n = draw(st.integers(1, 3))
    lengths = [draw(st.integers(3, 20 if n < 2 else 6 if n < 3 else 4)) for _ in range(n)]
    kernel = [draw(st.integers(1, 3)) for _ in range(n)]
    dilations = [draw(st.integers(1, 2)) for _ in range(n)]
    strides = [draw(st.integers(1, 3)) for _ in range(n)]
    pads = [draw(st.integers(0, 3)) for _ in range(2 * n)]
    group, inputs, outputs = draw(
        st.sampled_from([(1, 1, 2), (1, 3, 2), (2, 4, 4), (3, 3, 3), (2, 2, 6), (3, 6, 3)])
    )
    for i in range(n):
        assume(lengths[i] + pads[i] + pads[n + i] > (kernel[i] - 1) * dilations[i])
    attributes = {"strides": strides, "dilations": dilations, "pads": pads, "group": group}
    return (2, inputs, *lengths), (outputs, inputs // group, *kernel), attributes


@settings(max_examples=40, deadline=None, derandomize=True)
@given(convolutions(), st.sampled_from([11, 13, 18]), st.booleans())
def test_conv(case, opset, symbolic):
    assume(opset >= 13 or not symbolic)
    x, w, attributes = case
    bias = normal(w[0])
    held = symbolic  # a weight has a static shape
    check(
        "Conv",
        [normal(*x), normal(*w), bias],
        (0,) if held else (0, 1, 2),
        opset=opset,
        symbolic=symbolic,
        **attributes,
    )


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
def test_conv_with_automatic_padding(auto_pad, stride):
    check(
        "Conv",
        [normal(2, 2, 5, 6), normal(3, 2, 3, 2)],
        (0, 1),
        auto_pad=auto_pad,
        strides=[stride, stride],
    )


def test_wide_conv_folds_examples_into_rows():
    check("Conv", [normal(2, 128, 3), normal(128, 128, 2)], (0, 1), pads=[1, 0])


@st.composite
def transposed(draw):
    """Shapes of x and w, and attributes, of a transposed convolution."""
    n = draw(st.integers(1, 2))
    lengths = [draw(st.integers(1, 4)) for _ in range(n)]
    kernel = [draw(st.integers(1, 3)) for _ in range(n)]
    dilations = [draw(st.integers(1, 2)) for _ in range(n)]
    strides = [draw(st.integers(1, 3)) for _ in range(n)]
    extra = [draw(st.integers(0, max(strides[i], dilations[i]) - 1)) for i in range(n)]
    group, inputs, outputs = draw(st.sampled_from([(1, 1, 2), (1, 3, 2), (2, 4, 4), (3, 3, 3)]))
    room = [(lengths[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 + extra[i] for i in range(n)]
    pads = [draw(st.integers(0, max(0, min(2, (room[i % n] - 1) // 2)))) for i in range(2 * n)]
    attributes = {"strides": strides, "dilations": dilations, "pads": pads, "group": group}
    return (2, inputs, *lengths), (inputs, outputs // group, *kernel), {**attributes, "output_padding": extra}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(transposed())
def test_conv_transpose(case):
    x, w, attributes = case
    check(
        "ConvTranspose", [normal(*x), normal(*w), normal(w[1] * attributes["group"])], (0, 1, 2), **attributes
    )


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("shape", [(2, 3, 30), (2, 2, 3, 30)])
def test_long_rows_are_shifted_in_memory(group, shape):
    n = len(shape) - 1
    attributes = {"pads": [1] * (2 * n - 1) + [0], "dilations": [2, *[1] * (n - 1)]}
    check("Conv", [normal(2, *shape), normal(4, 2 // group, *[2] * n)], (0, 1), group=group, **attributes)
    check("Conv", [normal(2, *shape), normal(2, 1, *[2] * n)], (0, 1), group=2, **attributes)
