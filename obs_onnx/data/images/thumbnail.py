"""Small pictures of samples, as PNG, without a package for images."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from obs_onnx.data.feeds import Array

__all__ = ["png", "thumbnail"]

_LEAST, _MOST = 8, 96  # pixels of a side: of what is taken for a picture, and of what is shown
_CHANNELS = (1, 3, 4)
_COLOURS = {1: 0, 3: 2, 4: 6}  # types of PNG, by channels


def thumbnail(sample: Array) -> bytes | None:
    """A picture of one sample; None where it is none.

    Args:
        sample: (channels, height, width) or (height, width, channels) with 1, 3 or 4 channels, or (height,
            width). Numbers that are no pixels of 8 bits are stretched from their least to their largest.
    """
    pixels = _pixels(sample)
    if pixels is None or min(pixels.shape[:2]) < _LEAST:
        return None
    step = -(-max(pixels.shape[:2]) // _MOST)
    return png(_in_bytes(pixels[::step, ::step]))


def _pixels(sample: Array) -> Array | None:
    """(height, width, channels)."""
    if sample.dtype.kind not in "fiu":
        return None
    if sample.ndim == 2 and sample.dtype.kind == "f":
        return sample.reshape(*sample.shape, 1)
    if sample.ndim != 3:
        return None
    if sample.shape[0] in _CHANNELS:
        return np.asarray(sample.transpose(1, 2, 0))
    return sample if sample.shape[2] in _CHANNELS else None


def _in_bytes(pixels: Array) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return np.asarray(pixels, np.uint8)
    numbers = np.nan_to_num(pixels.astype(np.float64))
    low, high = numbers.min(), numbers.max()
    scaled = np.round(255 * (numbers - low) / max(high - low, np.finfo(np.float64).tiny))
    return np.asarray(scaled, np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """(height, width, channels) of 1, 3 or 4 channels as PNG (ISO/IEC 15948), unfiltered."""
    height, width, channels = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    head = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
