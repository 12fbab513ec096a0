"""How far a changed model's outputs are from the dense ones: what allocation minimises.

* ``error``: mean over the parts of all outputs of ``(weight * error)^2``, see
  :mod:`obs_onnx.evaluation.measures.parts`; a sum of squares adds up where several layers do damage, while
  targets limit the largest of them.
* ``changed``: share of the numbers that differ, for models without any float output (class numbers).
* ``kl``: Kullback-Leibler divergence of the class probabilities, mean over rows of scores, in nats; see
  :mod:`obs_onnx.evaluation.measures.class_scores` for what is a class score.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from obs_onnx.evaluation.measures.class_scores import blocks, log_probabilities
from obs_onnx.evaluation.measures.parts import ErrorSums
from obs_onnx.evaluation.measures.yardstick import CHANGED, KL, Yardstick

__all__ = ["Damage", "Divergence", "divergence"]

_BLOCK = 1 << 16  # scores that stay in the cache

Float = NDArray[np.float64]
Outputs = Mapping[str, NDArray[Any]]


class Damage:
    """Damage summed over batches.

    Args:
        yardstick: how the outputs are measured.
        names: the outputs to compare.
    """

    def __init__(self, yardstick: Yardstick, names: Collection[str]) -> None:
        self._yardstick, self._names = yardstick, tuple(names)
        self._errors = ErrorSums([part for part in yardstick.parts if part.output in set(names)])
        self._sum = self._count = 0.0

    def update(self, dense: Outputs, changed: Outputs) -> None:
        """Add one batch; an output whose size follows from the data and differs counts as all wrong."""
        if self._yardstick.measure == KL:
            found = divergence(self._yardstick, dense, changed)
            self._add((found.kl, found.rows))
        elif self._yardstick.measure == CHANGED:
            for name in self._names:
                y, z = dense[name], changed[name]
                size = float(max(y.size, z.size))
                wrong = float(np.count_nonzero(y != z)) if y.shape == z.shape else size
                self._add((wrong, size))
        else:
            self._errors.add(dense, changed)

    def _add(self, pair: tuple[float, float]) -> None:
        self._sum += pair[0]
        self._count += pair[1]

    @property
    def value(self) -> float:
        """Over all batches; 0 where nothing was compared."""
        if self._yardstick.measure in (KL, CHANGED):
            return self._sum / self._count if self._count else 0.0
        squares = [one.weighted**2 for one in self._errors.errors()]
        return float(np.mean(squares)) if squares else 0.0


@dataclass(frozen=True)
class Divergence:
    """How far class probabilities are from the dense ones, in nats, summed over rows.

    Attributes:
        kl: Kullback-Leibler divergence.
        entropy: of the dense ones.
        rows: how many there are.
    """

    kl: float
    entropy: float
    rows: int


def divergence(yardstick: Yardstick, dense: Outputs, changed: Outputs) -> Divergence:
    """The divergence of class probabilities, row block by row block.

    The logarithms are at hand, so they are subtracted; :func:`scipy.special.rel_entr` takes probabilities,
    which underflow where a model is sure of itself: it would give infinity for a damage of some hundred nats.
    Scores of another size are wrong by all that a class can say.
    """
    scores = yardstick.scores
    assert scores is not None
    same = dense[scores.name].shape == changed[scores.name].shape
    dense_NC, changed_NC = scores.rows(dense), scores.rows(changed)
    rows, classes = dense_NC.shape
    total = entropy = 0.0
    for block in blocks(dense_NC, _BLOCK):
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            log_p, p = _softmax(dense_NC[block], scores.probabilities)
            there = p > 0  # masked scores have p = 0
            log_q = _softmax(changed_NC[block], scores.probabilities)[0] if same else log_p
            entropy -= _expected(p, log_p, there)
            total += _expected(p, np.subtract(log_p, log_q, out=log_p), there) if same else 0.0
    return Divergence(total if same else rows * float(np.log(max(classes, 2))), entropy, rows)


def _softmax(scores_NC: NDArray[Any], probabilities: bool) -> tuple[Float, Float]:
    """(N, C) logarithms of probabilities, and these: :func:`log_probabilities` with a single exponential."""
    peak = scores_NC.max(axis=1, keepdims=True)
    if probabilities or not np.isfinite(peak).all():
        log_p = log_probabilities(scores_NC, probabilities)
        return log_p, np.exp(log_p)
    log_p = np.subtract(scores_NC, peak, dtype=np.float64)
    p = np.exp(log_p)
    sums = p.sum(axis=1, keepdims=True)
    log_p -= np.log(sums)
    p /= sums
    return log_p, p


def _expected(p: Float, values: Float, there: NDArray[np.bool_]) -> float:
    """Sum of values with their probabilities, of those that are ``there``."""
    found = float(np.einsum("nc,nc->", p, values))
    if not np.isfinite(found):
        found = float(np.sum(np.multiply(p, values, out=np.zeros_like(p), where=there)))
    return found
