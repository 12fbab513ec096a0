"""Which output holds class scores, and whether it is probabilities."""

from __future__ import annotations

import math

import numpy as np

from obs_onnx.data.feeds import Array, Feed, is_float

__all__ = []


def scores_of(outputs: Feed) -> Array | None:
    """The first float output of shape (samples, classes), trailing axes of size 1 left away."""
    for output in outputs.values():
        if is_float(output.dtype) and output.ndim >= 2 and output.shape[1] > 1:
            if output.ndim == 2:
                return output
            if math.prod(output.shape[2:]) == 1:
                return output.reshape(output.shape[:2])
    return None


def classes_of(outputs: Feed, scores: Array | None) -> Array | None:
    """Predicted class per sample (-1 where a score is NaN); from an integer output if there are no scores."""
    if scores is not None:
        return np.where(np.isnan(scores).any(axis=1), -1, scores.argmax(axis=1))
    for output in outputs.values():
        if output.dtype.kind in "iu" and (output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1)):
            return output.reshape(-1)
    return None
