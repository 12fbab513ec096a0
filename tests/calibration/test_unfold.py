"""Unfolding against plain loops over samples, positions, kernel offsets and channels."""

from __future__ import annotations

import itertools
import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from obs_onnx.calibration.unfold import Axis, axes_of, computable, materialise, outputs, unfold
from obs_onnx.passes.errors import DataError
from obs_onnx.passes.traits.linear import ConvGeometry, MatmulGeometry

PROPERTY = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@st.composite
def axes(draw: st.DrawFn) -> Axis:
    """Axes of plain and of transposed convolutions."""
    size, out = draw(st.integers(1, 7)), draw(st.integers(1, 6))
    starts = tuple(sorted(draw(st.sets(st.integers(-3, 5), min_size=1, max_size=4))))
    if draw(st.booleans()):
        return Axis(size, out, starts, draw(st.integers(1, 3)))
    return Axis(size, out, starts[::-1], 1, draw(st.integers(2, 3)))


def met(axis: Axis, k: int, o: int) -> int | None:
    """The input that kernel offset ``k`` meets for output ``o``; None for a zero."""
    at = axis.starts[k] + o * axis.stride
    return at // axis.up if at % axis.up == 0 and 0 <= at // axis.up < axis.size else None


@PROPERTY
@given(axes())
def test_windows_are_pairs_of_inputs_and_outputs_that_meet(axis: Axis) -> None:
    for k in range(len(axis.starts)):
        inputs, places = axis.window(k)
        found = list(zip(range(axis.size)[inputs], range(axis.out)[places], strict=True))
        assert found == [(i, o) for o in range(axis.out) if (i := met(axis, k, o)) is not None]


@PROPERTY
@given(axes(), axes())
def test_zeros_written_out(first: Axis, second: Axis) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, first.size, second.size))
    padded, found = materialise(x, (first, second))
    for old, new in zip((first, second), found, strict=True):
        assert (new.up, len(new.starts), new.out) == (1, len(old.starts), old.out)
    for k, j in itertools.product(range(len(first.starts)), range(len(second.starts))):
        for o, p in itertools.product(range(first.out), range(second.out)):
            here = met(first, k, o), met(second, j, p)
            expected = 0.0 if None in here else x[:, :, here[0], here[1]]
            place = met(found[0], k, o), met(found[1], j, p)
            np.testing.assert_array_equal(padded[:, :, place[0], place[1]], expected)


@PROPERTY
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    groups=st.sampled_from([1, 2]),
)
def test_convolutions_one_position_at_a_time(kernel, strides, dilations, pads, groups) -> None:
    geometry = ConvGeometry(kernel, strides, dilations, pads, groups=groups)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 2 * groups, 5, 6)), rng.standard_normal((3 * groups, 2, *kernel))
    out = [
        (n + pads[i] + pads[i + 2] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1
        for i, n in enumerate((5, 6))
    ]
    assume(min(out) > 0)
    y = np.zeros((2, 3 * groups, *out))
    for n, o, a, b in np.ndindex(*y.shape):
        for c, i, j in np.ndindex(2, *kernel):
            row = a * strides[0] + i * dilations[0] - pads[0]
            column = b * strides[1] + j * dilations[1] - pads[1]
            if 0 <= row < 5 and 0 <= column < 6:
                y[n, o, a, b] += w[o, c, i, j] * x[n, o // 3 * 2 + c, row, column]
    w_GOI = w.reshape(groups, 3, 2, math.prod(kernel)).swapaxes(2, 3).reshape(groups, 3, -1)
    x_GNI = unfold(x, geometry)
    np.testing.assert_allclose(
        x_GNI @ w_GOI.swapaxes(1, 2),
        outputs(y, geometry, (groups, 3, x_GNI.shape[2])),
        rtol=1e-10,
        atol=1e-10,
    )
    assert [axis.out for axis in axes_of(geometry, (5, 6))] == out


def test_samples_are_slower_than_positions() -> None:
    geometry = ConvGeometry((1,), (1,), (1,), (0, 0))
    x = np.arange(12.0).reshape(2, 2, 3)
    np.testing.assert_array_equal(unfold(x, geometry)[0], [[0, 3], [1, 4], [2, 5], [6, 9], [7, 10], [8, 11]])
    np.testing.assert_array_equal(outputs(x, geometry, (1, 2, 2)), unfold(x, geometry))


@pytest.mark.parametrize(
    ("geometry", "shape", "expected"),
    [
        (MatmulGeometry(), (2, 3, 4), (1, 6, 4)),
        (MatmulGeometry(-2), (2, 4, 3), (1, 6, 4)),
        (MatmulGeometry(), (4,), (1, 1, 4)),
        (MatmulGeometry(-1, -1, 3), (2, 3, 5, 4), (3, 10, 4)),
        (MatmulGeometry(-2, -1, 6), (2, 3, 4, 5), (6, 5, 4)),
    ],
)
def test_products_of_matrices(geometry: MatmulGeometry, shape: tuple[int, ...], expected: tuple) -> None:
    x = np.random.default_rng(0).standard_normal(shape)
    found = unfold(x, geometry)
    assert found.shape == expected
    for n, group in itertools.product(range(found.shape[1]), range(geometry.groups)):
        assert sorted(found[group, n]) in [
            sorted(line)
            for line in np.moveaxis(x, geometry.input_axis, -1).reshape(-1, x.shape[geometry.input_axis])
        ]


def test_a_vector_of_outputs_is_one_column() -> None:
    np.testing.assert_array_equal(
        outputs(np.arange(6.0).reshape(2, 3), MatmulGeometry(), (1, 1, 4))[0, :, 0], range(6)
    )


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (np.float64, np.float64),
        (np.float32, np.float32),
        (np.float16, np.float32),
        (ml_dtypes.bfloat16, np.float32),
    ],
)
def test_half_types_become_single(given: type, kept: type) -> None:
    assert computable(np.ones(3, given)).dtype == kept


def test_shapes_that_do_not_fit() -> None:
    geometry = ConvGeometry((3, 3), (1, 1), (1, 1), (0,) * 4)
    with pytest.raises(DataError, match="1 spatial axes does not fit"):
        unfold(np.zeros((1, 2, 5)), geometry)
    with pytest.raises(DataError, match="smaller than"):
        unfold(np.zeros((1, 2, 5, 2)), geometry)
    with pytest.raises(DataError, match="does not have 6 channels"):
        outputs(np.zeros((1, 5, 3, 3)), geometry, (2, 3, 9))
    with pytest.raises(DataError, match="4 leading matrices"):
        unfold(np.zeros((3, 5, 2)), MatmulGeometry(groups=4))
