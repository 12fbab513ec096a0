"""Thumbnails: the pixels that Pillow reads back."""

from __future__ import annotations

import io

import numpy as np
import pytest

from obs_onnx.data.images.thumbnail import png, thumbnail


def read(data: bytes | None) -> np.ndarray:
    image = pytest.importorskip("PIL.Image", reason="needs obs-onnx[images]")
    assert data is not None
    return np.asarray(image.open(io.BytesIO(data)))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_come_back(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, channels)).astype(np.uint8)
    found = read(png(pixels))
    np.testing.assert_array_equal(found if channels > 1 else found[..., None], pixels)


def test_either_layout_and_any_range() -> None:
    x = np.linspace(-2, 3, 3 * 8 * 10).reshape(3, 8, 10).astype(np.float32)
    first, last = read(thumbnail(x)), read(thumbnail(x.transpose(1, 2, 0)))
    np.testing.assert_array_equal(first, last)
    assert (first.min(), first.max(), first.shape) == (0, 255, (8, 10, 3))
    pixels = np.full((8, 8, 3), 7, np.uint8)
    assert read(thumbnail(pixels)).max() == 7  # pixels stay what they are
    assert read(thumbnail(np.full((8, 8), np.nan, np.float32))).max() == 0


def test_large_ones_get_smaller() -> None:
    assert read(thumbnail(np.zeros((3, 640, 320), np.float32))).shape == (92, 46, 3)


@pytest.mark.parametrize(
    "sample",
    [
        np.zeros(64, np.float32),
        np.zeros((5, 9, 9), np.float32),
        np.zeros((3, 4, 4), np.float32),
        np.zeros((16, 16), np.int64),
        np.zeros((2, 3, 8, 8), np.float32),
        np.full((3, 9, 9), "a"),
    ],
    ids=["row", "channels", "small", "ids", "video", "text"],
)
def test_what_is_no_picture(sample: np.ndarray) -> None:
    assert thumbnail(sample) is None
