"""How far a changed model's outputs are from the dense ones: what allocation minimises.

* ``error``: squared relative error, ``||y' - y||^2 / ||y||^2``, averaged over the float outputs.
* ``changed``: share of the numbers that differ, for models without any float output (class numbers).
* ``kl``: Kullback-Leibler divergence of the class probabilities, mean over samples, in nats; see
  :mod:`obs_onnx.evaluation.class_scores` for what is a class score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from obs_onnx.data.feeds import is_float
from obs_onnx.evaluation.class_scores import (
    are_probabilities,
    find_class_scores,
    log_probabilities,
    rows_of,
)
from obs_onnx.passes.errors import OptionError

__all__ = ["AUTO", "CHANGED", "ERROR", "KL", "MEASURES", "Damage", "Measure", "choose_measure"]

AUTO, KL, ERROR, CHANGED = "auto", "kl", "error", "changed"

Output = NDArray[Any]
Outputs = Mapping[str, Output]


@dataclass(frozen=True)
class Measure:
    """A measure of the damage to one output: a sum over batches divided by another one.

    Attributes:
        parts: of both sums, from a batch of the dense model and one of the other, of the same shape.
        whole: the same where the shapes differ, so that all counts as wrong.
        floats: for outputs of a floating-point type only.
    """

    parts: Callable[[Output, Output], tuple[float, float]]
    whole: Callable[[Output, Output], tuple[float, float]]
    floats: bool = True


@dataclass
class Damage:
    """Damage summed over batches.

    Args:
        measure: a name in :data:`MEASURES`.
        names: the outputs to compare.
    """

    measure: str
    names: Sequence[str]
    _sums: dict[str, list[float]] = field(default_factory=dict)

    def update(self, dense: Outputs, changed: Outputs) -> None:
        """Add one batch; an output whose size follows from the data and differs counts as all wrong."""
        measure = MEASURES[self.measure]
        for name in self.names:
            y, z = dense[name], changed[name]
            same = y.shape == z.shape
            if measure.floats and not is_float(y.dtype):
                if not same:
                    self._add(name, (0.0, 0.0))  # without damage
                continue
            self._add(name, (measure.parts if same else measure.whole)(y, z))

    def _add(self, name: str, parts: tuple[float, float]) -> None:
        total = self._sums.setdefault(name, [0.0, 0.0])
        total[0] += parts[0]
        total[1] += parts[1]

    @property
    def value(self) -> float:
        """Mean over the outputs; 0 where nothing was compared."""
        ratios = [a / b if b else (0.0 if a == 0 else np.inf) for a, b in self._sums.values()]
        return float(np.mean(ratios)) if ratios else 0.0


def choose_measure(asked: str, outputs: Outputs) -> str:
    """The measure for a model, from what it gives for one batch.

    ``auto`` takes ``kl`` for class scores that are alone, see :mod:`obs_onnx.evaluation.class_scores`.
    Without any float output it is ``changed``.

    Raises:
        OptionError: an unknown measure, or ``kl`` for a model without class scores.
    """
    if asked not in (KL, ERROR, AUTO):
        raise OptionError(f"loss {asked!r} is unknown: use {KL}, {ERROR} or {AUTO}")
    found = find_class_scores(outputs)
    scores = found is not None and found.alone
    if asked == KL and not scores:
        raise OptionError(
            f"loss {KL} needs a model with one output of class scores (samples, classes): use {ERROR}"
        )
    if not any(is_float(y.dtype) for y in outputs.values()):
        return CHANGED
    return KL if scores and asked != ERROR else ERROR


def _squares(y: Output, z: Output) -> tuple[float, float]:
    y, z = y.astype(np.float64), z.astype(np.float64)
    difference = np.subtract(z, y, out=np.zeros_like(y), where=z != y)  # equal infinities
    return float(np.sum(difference**2)), _square(y)


def _square(y: Output) -> float:
    return float(np.sum(y[np.isfinite(y)].astype(np.float64) ** 2))


def _divergence(dense_NC: NDArray[Any], changed_NC: NDArray[Any]) -> float:
    """Sum over samples, in nats.

    The logarithms are at hand, so they are subtracted; :func:`scipy.special.rel_entr` takes probabilities,
    which underflow where a model is sure of itself: it would give infinity for a damage of some hundred nats.
    """
    probabilities = are_probabilities(dense_NC)
    log_p, log_q = (log_probabilities(scores, probabilities) for scores in (dense_NC, changed_NC))
    p, difference = np.exp(log_p), np.zeros_like(log_p)
    np.subtract(log_p, log_q, out=difference, where=p > 0)  # masked scores have p = 0
    return float(np.sum(p * difference))


MEASURES: Mapping[str, Measure] = {
    KL: Measure(
        lambda y, z: (_divergence(rows_of(y), rows_of(z)), len(y)),
        lambda y, z: (len(y) * float(np.log(max(rows_of(y).shape[1], 2))), len(y)),
    ),
    ERROR: Measure(_squares, lambda y, z: (_square(y), _square(y))),
    CHANGED: Measure(
        lambda y, z: (float(np.count_nonzero(y != z)), y.size),
        lambda y, z: (float(max(y.size, z.size)), float(max(y.size, z.size))),
        floats=False,
    ),
}
"""Name of a measure -> the measure; the module says what each one is."""
