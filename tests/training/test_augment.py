"""Random views of images: what they may do, that the seed and the step decide, and who is refused."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.open_source import open_source
from obs_onnx.passes.errors import DataError, OptionError
from obs_onnx.training.augment import augmented, parse_augment
from obs_onnx.training.batches import shuffled

SEED = (0, 1, 2)


@pytest.fixture
def images(rng):
    return rng.standard_normal((64, 3, 16, 24)).astype(np.float32)


def test_flip_mirrors_about_half_of_the_images(images):
    found = augmented({"x": images}, parse_augment("flip"), SEED)["x"]
    same = np.array([np.array_equal(a, b) for a, b in zip(found, images, strict=True)])
    mirrored = np.array([np.array_equal(a, b[:, :, ::-1]) for a, b in zip(found, images, strict=True)])
    assert np.all(same ^ mirrored)
    assert 16 < mirrored.sum() < 48


@pytest.mark.parametrize(("crop", "rows", "columns"), [("crop", 2, 3), ("crop=1", 1, 1)])
def test_crop_shifts_by_an_eighth_or_so_many_pixels_at_most(images, crop, rows, columns):
    found = augmented({"x": images}, parse_augment(crop), SEED)["x"]
    padded = np.pad(images, ((0, 0), (0, 0), (rows, rows), (columns, columns)), mode="edge")
    shifts = set()
    for number, image in enumerate(found):
        fits = [
            (row, column)
            for row in range(2 * rows + 1)
            for column in range(2 * columns + 1)
            if np.array_equal(image, padded[number, :, row : row + 16, column : column + 24])
        ]
        assert len(fits) == 1
        shifts.update(fits)
    assert {row for row, _ in shifts} == set(range(2 * rows + 1))
    assert {column for _, column in shifts} == set(range(2 * columns + 1))


def test_channels_last_and_other_inputs(images, rng):
    last = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    scalars = rng.standard_normal((64, 5)).astype(np.float32)
    found = augmented({"a": images, "b": last, "c": scalars}, parse_augment("flip,crop"), SEED)
    np.testing.assert_array_equal(found["a"], found["b"].transpose(0, 3, 1, 2))
    assert found["c"] is scalars
    assert not np.array_equal(found["a"], images)
    assert found["a"].dtype == np.float32


def test_nothing_asked_for_nothing_changed(images):
    feed = {"x": images}
    assert augmented(feed, (), SEED) is feed


def test_refusals(rng):
    assert len(parse_augment(" flip, crop")) == 2
    assert parse_augment("") == ()
    for wrong in ("rotate", "crop=", "crop=0", "crop=-1", "crop=1.5", "flip=2"):
        with pytest.raises(OptionError, match=f"'{wrong}'"):
            parse_augment(f"flip,{wrong}")
    for x in (rng.standard_normal((4, 7)), rng.standard_normal((4, 7, 8, 9)), np.zeros((4, 3, 8, 8), int)):
        with pytest.raises(DataError, match="images"):
            augmented({"x": x}, parse_augment("flip"), SEED)


def test_views_depend_on_seed_and_step_alone(rng):
    x = rng.standard_normal((20, 1, 8, 8)).astype(np.float32)
    spec = TensorSpec("x", (None, 1, 8, 8), np.dtype(np.float32))
    for source in (open_source({"x": x}, [spec]), open_source([{"x": x[i : i + 5]} for i in (0, 5)], [spec])):
        stream = shuffled(source, 5, 1, 0, parse_augment("flip,crop"))
        first = [next(stream) for _ in range(9)]
        assert all(batch.rows is None for batch in first)
        again = shuffled(source, 5, 1, 6, parse_augment("flip,crop"))
        for batch in first[6:]:
            np.testing.assert_array_equal(batch.feed["x"], next(again).feed["x"])
        plain = [next(batches).feed["x"] for batches in [shuffled(source, 5, 1)] for _ in range(9)]
        assert any(not np.array_equal(a.feed["x"], b) for a, b in zip(first, plain, strict=True))
