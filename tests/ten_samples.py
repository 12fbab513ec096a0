"""Ten samples, recognisable row by row, and the inputs they are for."""

from __future__ import annotations

import numpy as np

from obs_onnx.data.feeds import TensorSpec

F32 = np.dtype(np.float32)
FREE = (TensorSpec("x", ("N", 3), F32),)
WHOLE = (TensorSpec("x", ("T", 3), F32), TensorSpec("scale", (), F32))


def samples(count: int = 10) -> np.ndarray:
    """Row ``i`` holds ``i`` everywhere, so that every row can be recognised."""
    return np.repeat(np.arange(count, dtype=np.float32)[:, None], 3, axis=1)


def seen(source) -> list[int]:
    """Which rows of :func:`samples` came, in order."""
    return [int(row[0]) for feed in source for row in feed["x"]]


def sizes(source) -> list[int]:
    return [len(feed["x"]) for feed in source]
