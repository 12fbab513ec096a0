"""Random views of the images of a training batch: mirrored, and shifted by a few pixels.

An input is taken for images if it is of a float type and has four axes, of which the second (or else the
last) is that of the channels: one, three or four of them. All such inputs of a feed are changed alike.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from obs_onnx.data.feeds import Array, Feed, is_float
from obs_onnx.passes.errors import DataError, OptionError

__all__ = ["View", "augmented", "parse_augment"]

_CHANNELS = (1, 3, 4)
_SHIFT = 8  # an image is shifted by at most one part of so many of its side

View = Callable[[Array, np.random.Generator], Array]


def parse_augment(text: str) -> tuple[View, ...]:
    """The views that a text such as ``flip,crop`` or ``crop=1`` (a shift of at most one pixel) names.

    Raises:
        OptionError: an unknown one, or a shift that is no number of pixels.
    """
    return tuple(_view(part.strip()) for part in text.split(",") if part.strip())


def _view(text: str) -> View:
    name, given, size = text.partition("=")
    if name == "flip" and not given:
        return _flip
    if name == "crop" and not given:
        return _crop
    if name == "crop" and size.isdecimal() and int(size) > 0:
        return partial(_crop, most=int(size))
    raise OptionError(f"augmentation {text!r} is unknown: use flip, crop, or crop=PIXELS")


def augmented(feed: Feed, views: tuple[View, ...], seed: tuple[int, ...]) -> Feed:
    """The feed with its images changed at random; ``seed`` alone decides how.

    Raises:
        DataError: it holds no images.
    """
    if not views:
        return feed
    images = {name: axis for name, array in feed.items() if (axis := _channel_axis(array)) is not None}
    if not images:
        raise DataError(
            "augmentation is for images, and no input has the shape (samples, channels, height, width) or "
            "(samples, height, width, channels) with 1, 3 or 4 channels: leave it out"
        )
    changed = dict(feed)
    for name, axis in images.items():
        random = np.random.default_rng(seed)
        x_NHWC = np.moveaxis(feed[name], axis, -1)
        for view in views:
            x_NHWC = view(x_NHWC, random)
        changed[name] = np.ascontiguousarray(np.moveaxis(x_NHWC, -1, axis))
    return changed


def _channel_axis(array: Array) -> int | None:
    if array.ndim != 4 or not is_float(array.dtype):
        return None
    return next((axis for axis in (1, 3) if array.shape[axis] in _CHANNELS), None)


def _flip(x_NHWC: Array, random: np.random.Generator) -> Array:
    """Half of the images mirrored left to right."""
    chosen = random.random(len(x_NHWC)) < 0.5
    return np.where(chosen[:, None, None, None], x_NHWC[:, :, ::-1], x_NHWC)


def _crop(x_NHWC: Array, random: np.random.Generator, most: int | None = None) -> Array:
    """Each image shifted by up to an eighth of its side, or ``most`` pixels; edges are repeated."""
    rows, columns = (_shifted(side, most, len(x_NHWC), random) for side in x_NHWC.shape[1:3])
    samples = np.arange(len(x_NHWC))[:, None, None]
    return np.asarray(x_NHWC[samples, rows[:, :, None], columns[:, None, :]])


def _shifted(side: int, most: int | None, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """(count, side) positions that are read."""
    most = side // _SHIFT if most is None else most
    shift = random.integers(-most, most, (count, 1), endpoint=True)
    return np.asarray(np.clip(np.arange(side) + shift, 0, side - 1))
