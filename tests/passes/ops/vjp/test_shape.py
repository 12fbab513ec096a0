"""Derivatives of operators that move, select, repeat and scatter elements against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from derivatives import check
from hypothesis import assume, given, settings
from hypothesis import strategies as st

rng = np.random.default_rng(7)


def normal(*shape):
    return rng.standard_normal(shape)


both = pytest.mark.parametrize("symbolic", [False, True])


@both
def test_views(symbolic):
    check("Reshape", [normal(2, 3, 4), np.array([0, -1])], symbolic=symbolic)
    check("Flatten", [normal(2, 3, 4)], axis=2, symbolic=symbolic)
    check("Unsqueeze", [normal(2, 3), np.array([0, -1])], symbolic=symbolic)
    check("Squeeze", [normal(2, 1, 3, 1), np.array([1])], symbolic=symbolic)
    check("Transpose", [normal(2, 3, 4)], perm=[1, 2, 0], symbolic=symbolic)
    check("Transpose", [normal(2, 3, 4)], symbolic=symbolic)


@both
def test_concat_and_split(symbolic):
    check("Concat", [normal(2, 3), normal(2, 1), normal(2, 2)], (0, 1, 2), axis=-1, symbolic=symbolic)
    check("Concat", [normal(2, 3), normal(2, 1), normal(2, 2)], (1,), axis=1, symbolic=symbolic)
    check("Split", [normal(2, 6), np.array([1, 2, 3])], axis=1, outputs=3, symbolic=symbolic)
    check("Split", [normal(2, 7)], axis=1, num_outputs=3, outputs=3)


@both
def test_copies(symbolic):
    check("Expand", [normal(3, 1), np.array([2, 1, 4])], symbolic=symbolic)
    check("Tile", [normal(2, 3), np.array([3, 2])], symbolic=symbolic)


def test_places_and_channels():
    for mode in ("DCR", "CRD"):
        check("DepthToSpace", [normal(2, 8, 2, 3)], blocksize=2, mode=mode)
        check("SpaceToDepth", [normal(2, 2, 4, 6)], blocksize=2, mode=mode, opset=28)
    check("SpaceToDepth", [normal(2, 2, 4, 6)], blocksize=2)


def test_triangle_reverse_one_hot():
    check("Trilu", [normal(2, 3, 4)], upper=0)
    check("Trilu", [normal(3, 4), np.array(1)])
    check("ReverseSequence", [normal(4, 3), np.array([2, 4, 1])])
    check("OneHot", [np.array([1, 0, 2]), np.array(3), normal(2)], (2,))


@st.composite
def slices(draw):
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    axes = draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, max_size=len(shape), unique=True))
    steps = [draw(st.sampled_from([-3, -2, -1, 1, 1, 2, 3])) for _ in axes]
    starts = [draw(st.sampled_from([*range(-7, 8), 2**31 - 1])) for _ in axes]
    ends = [draw(st.sampled_from([*range(-7, 8), 2**31 - 1, -(2**31) + 1])) for _ in axes]
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        stop = None if step < 0 and end < -shape[axis] else end
        assume(len(range(shape[axis])[start:stop:step]))
    return shape, [np.array(a) for a in (starts, ends, axes, steps)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(slices(), st.booleans())
def test_slice(case, symbolic):
    shape, operands = case
    check("Slice", [normal(*shape), *operands], symbolic=symbolic)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.sampled_from(["constant", "edge", "reflect", "wrap"]),
    st.lists(st.integers(-1, 3), min_size=4, max_size=4),
    st.booleans(),
)
def test_pad(mode, pads, symbolic):
    assume(mode == "constant" or min(pads) >= 0)
    x = normal(4, 5)
    if mode == "constant":
        check("Pad", [x, np.array(pads), np.array(0.3)], (0, 2), mode=mode, symbolic=symbolic)
    else:
        check("Pad", [x, np.array(pads)], mode=mode, opset=19, symbolic=symbolic)


def test_pad_of_some_axes():
    check("Pad", [normal(3, 4), np.array([1, 2]), None, np.array([1])])


INDICES = [
    np.array(1),
    np.array(-1),
    np.array([1, 2]),
    np.array([2, 0, 3, 1]),
    np.array([-1, 0, 0]),
    np.array([[0, 3], [3, 3]]),
]


@both
@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("index", INDICES)
def test_gather(index, axis, opset, symbolic):
    check("Gather", [normal(4, 4, 4), index], axis=axis, opset=opset, symbolic=symbolic)


@both
def test_lookups(symbolic):
    index = np.array([[0, 2, 0], [1, 1, 2]])
    check("GatherElements", [normal(3, 3), index], axis=0, symbolic=symbolic)
    check("GatherND", [normal(3, 4, 2), np.array([[0, 1], [2, 3], [0, 1]])], symbolic=symbolic)
    check("Compress", [normal(3, 4), np.array([True, False, True])], axis=0, symbolic=symbolic)
    check("Compress", [normal(2, 2), np.array([True, False, True])], symbolic=symbolic)


@pytest.mark.parametrize("reduction", ["none", "add"])
def test_scatters(reduction):
    index = np.array([[0, 2], [1, 0], [2, 1]])
    check("ScatterElements", [normal(3, 3), index, normal(3, 2)], (0, 2), axis=1, reduction=reduction)
    places = np.array([[0], [2]])
    check("ScatterND", [normal(3, 2), places, normal(2, 2)], (0, 2), reduction=reduction)


@pytest.mark.parametrize("inverse", [0, 1])
@pytest.mark.parametrize("parts", [1, 2])
def test_fourier(parts, inverse):
    check("DFT", [normal(2, 5, 3, parts)], axis=1, inverse=inverse)
    check("DFT", [normal(2, 5, 3, parts), None, np.array(2)], opset=20, inverse=inverse)
