"""Arrays that are made to fit the inputs of a model, or refused."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from ten_samples import FREE, samples

from obs_onnx.data.feeds import Repeated, TensorSpec, conform
from obs_onnx.data.open_source import open_source
from obs_onnx.passes.errors import DataError


def bad_array(value, at=(4, 1)):
    x = samples()
    x[at] = value
    return x


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", ["array", "stream"])
def test_values_that_are_not_finite(value, form):
    x = bad_array(value)
    source = open_source({"x": x} if form == "array" else [{"x": x[:4]}, {"x": x[4:]}], FREE, batch_size=4)
    with pytest.raises(DataError, match=r"array 'x' has NaN or infinite values \(first at index \[0, 1\]"):
        list(source)


@pytest.mark.parametrize(
    ("given", "wanted", "value"),
    [
        (np.float64, np.float32, 1.5),
        (np.float16, np.float32, 1.5),
        (np.float32, np.float16, 1.5),
        (np.float32, ml_dtypes.bfloat16, 1.5),
        (np.int32, np.int64, -3),
        (np.int64, np.int8, -3),
        (np.bool_, np.bool_, True),
        (np.uint8, np.bool_, 1),
    ],
)
def test_safe_casts(given, wanted, value):
    data = {"x": np.full((2, 3), value, given)}
    feed = next(iter(open_source(data, (TensorSpec("x", ("N", 3), np.dtype(wanted)),))))
    assert feed["x"].dtype == wanted
    assert (feed["x"] == np.array(value, wanted)).all()


@pytest.mark.parametrize(
    ("given", "wanted", "value", "message"),
    [
        (np.float64, np.float32, 1e300, "too large for float32"),
        (np.float32, np.float16, 1e6, "too large for float16"),
        (np.int64, np.int32, 2**40, "too wide for int32"),
        (np.int64, np.uint8, -1, "too wide for uint8"),
        (np.int64, np.bool_, 2, "too wide for bool"),
    ],
)
def test_casts_that_lose_the_value(given, wanted, value, message):
    data = {"x": np.full((2, 3), value, given)}
    with pytest.raises(DataError, match=message):
        list(open_source(data, (TensorSpec("x", ("N", 3), np.dtype(wanted)),)))


def test_strings():
    spec = (TensorSpec("x", ("N",), np.dtype(object)),)
    assert next(iter(open_source({"x": np.array(["a", "b"])}, spec)))["x"].tolist() == ["a", "b"]
    with pytest.raises(DataError, match="array of strings"):
        open_source({"x": np.zeros(3)}, spec)


def test_masks_of_minus_infinity_pass_and_other_infinities_do_not() -> None:
    spec = TensorSpec("mask", ("N", 2), np.dtype(np.float32))
    for mask in ([[0, -np.inf]], [[-1.5, -np.inf]], [[-np.inf, -np.inf]]):
        np.testing.assert_array_equal(conform(np.array(mask), spec, "data"), mask)
    for other in ([[0, np.inf]], [[1, -np.inf]], [[0, np.nan]], [[-np.inf, np.nan]], [[-np.inf, np.inf]]):
        with pytest.raises(DataError, match="NaN or infinite values"):
            conform(np.array(other), spec, "data")


def test_a_number_stays_without_axes() -> None:
    assert conform(5, TensorSpec("t", (), np.dtype(np.int64)), "data").shape == ()


def test_what_an_iterator_gives_can_be_read_again_and_by_several_at_a_time() -> None:
    made = []

    def items():
        for number in range(4):
            made.append(number)
            yield number

    repeated = Repeated(items())
    first, second = iter(repeated), iter(repeated)
    assert (next(first), next(second), next(first)) == (0, 0, 1)
    assert made == [0, 1]  # no more than somebody asked for
    assert list(repeated) == list(repeated) == [0, 1, 2, 3]
    assert list(first) == [2, 3]
    assert made == [0, 1, 2, 3]
