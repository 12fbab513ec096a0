"""Which output holds class scores, and whether they are probabilities: one rule for everything that asks.

* Class scores are the first output of a floating-point type that has shape (samples, classes) with two
  classes or more; axes of size 1 may follow, as a global pooling leaves them: (samples, classes, 1, 1).
* They are *probabilities* where, in the batch that was looked at, no number is negative and the numbers of
  each sample add up to 1 within 0.001. Otherwise their softmax is.
* They are *alone* where no other output is of a floating-point type. What compares all that a model says (the
  damage to its outputs, the distance to a teacher) goes by classes only then, and takes relative errors
  otherwise. What needs a class (accuracy, the loss of criteria, mutual information) takes the scores
  whether they are alone or not.

The rule is asked of the dense model, and holds for every model that is compared with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from obs_onnx.data.feeds import Array, is_float

__all__ = [
    "ClassScores",
    "are_probabilities",
    "classes_of",
    "find_class_scores",
    "log_of_probabilities",
    "log_probabilities",
    "rows_of",
]

_TOLERANCE = 1e-3  # of a sum of probabilities
_TINY = 1e-12  # probabilities below count as that large


@dataclass(frozen=True)
class ClassScores:
    """Where a model's class scores are; see the module.

    Attributes:
        name: of the output.
        probabilities: it holds probabilities.
        alone: it is the only output of a floating-point type.
    """

    name: str
    probabilities: bool
    alone: bool


def find_class_scores(outputs: Mapping[str, Array]) -> ClassScores | None:
    """The class scores of a model that gives ``outputs`` for a batch; None where it gives none."""
    floats = {name: y for name, y in outputs.items() if is_float(y.dtype)}
    for name, y in floats.items():
        if y.ndim >= 2 and y.shape[1] > 1 and math.prod(y.shape[2:]) == 1:
            return ClassScores(name, are_probabilities(rows_of(y)), len(floats) == 1)
    return None


def rows_of(scores: Array) -> Array:
    """(N, C) of class scores (N, C, 1, ...)."""
    return scores if scores.ndim == 2 else scores.reshape(scores.shape[:2])


def are_probabilities(scores_NC: Array) -> bool:
    """Whether scores are probabilities; see the module."""
    p = scores_NC.astype(np.float64)
    return bool(p.min(initial=0.0) >= 0 and np.allclose(p.sum(axis=1), 1, rtol=0, atol=_TOLERANCE))


def log_of_probabilities(p: Array, least: float = _TINY) -> Array:
    """Logarithms of probabilities, which are scores again; those below ``least`` count as ``least``."""
    return np.log(np.maximum(p, least))


def log_probabilities(scores_NC: Array, probabilities: bool) -> NDArray[np.float64]:
    """(N, C) logarithms of the probabilities of the classes; -inf where a score is.

    Args:
        scores_NC: class scores.
        probabilities: they are probabilities already.
    """
    x = scores_NC.astype(np.float64)
    return np.asarray(log_of_probabilities(x) if probabilities else log_softmax(x, axis=1))


def classes_of(outputs: Mapping[str, Array]) -> Array | None:
    """(N,) predicted class of each sample, -1 where a score is NaN.

    Without class scores these are the numbers of an integer output of shape (samples,) or (samples, 1); None
    where there is no such output either.
    """
    if (found := find_class_scores(outputs)) is not None:
        scores_NC = rows_of(outputs[found.name])
        return np.where(np.isnan(scores_NC).any(axis=1), -1, scores_NC.argmax(axis=1))
    for output in outputs.values():
        if output.dtype.kind in "iu" and (output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1)):
            return output.reshape(-1)
    return None
