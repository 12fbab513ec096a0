"""How far a changed model's outputs are from the dense ones: what allocation minimises.

* ``error``: squared relative error, ``||y' - y||^2 / ||y||^2``, averaged over the float outputs.
* ``changed``: share of the numbers that differ, for models without any float output (class numbers).
* ``kl``: Kullback-Leibler divergence of the class probabilities, mean over samples, in nats (class scores
  are turned into probabilities by softmax).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from obs_onnx.passes.errors import OptionError

__all__ = ["Damage", "choose_measure"]

Outputs = Mapping[str, NDArray[Any]]


@dataclass
class Damage:
    """Damage summed over batches.

    Args:
        measure: ``error``, ``kl`` or ``changed``.
        names: the outputs to compare; only floating-point ones count, for ``changed`` all.
    """

    measure: str
    names: Sequence[str]
    _sums: dict[str, list[float]] = field(default_factory=dict)

    def update(self, dense: Outputs, changed: Outputs) -> None:
        """Add one batch; an output whose size follows from the data and differs counts as all wrong."""
        for name in self.names:
            y, z = dense[name], changed[name]
            if y.shape != z.shape:
                self._add_lost(name, y, z)
                continue
            if self.measure == "changed":
                total = self._sums.setdefault(name, [0.0, 0.0])
                total[0] += float(np.count_nonzero(y != z))
                total[1] += y.size
                continue
            if y.dtype.kind in "iubOSU":
                continue
            y, z = y.astype(np.float64), z.astype(np.float64)
            total = self._sums.setdefault(name, [0.0, 0.0])
            if self.measure == "kl":
                with np.errstate(invalid="ignore", over="ignore"):
                    log_p, log_q = _log_probabilities(y), _log_probabilities(z)
                p, difference = np.exp(log_p), np.zeros_like(log_p)
                np.subtract(log_p, log_q, out=difference, where=p > 0)  # masked scores have p = 0
                total[0] += float(np.sum(p * difference))
                total[1] += log_p[..., 0].size
            else:
                with np.errstate(invalid="ignore", over="ignore"):
                    difference = np.subtract(z, y, out=np.zeros_like(y), where=z != y)  # equal infinities
                    total[0] += float(np.sum(difference**2))
                total[1] += float(np.sum(y[np.isfinite(y)] ** 2))

    def _add_lost(self, name: str, y: NDArray[Any], z: NDArray[Any]) -> None:
        total = self._sums.setdefault(name, [0.0, 0.0])
        if self.measure == "changed":
            whole = float(max(y.size, z.size))
        elif y.dtype.kind in "iubOSU":
            return
        elif self.measure == "kl":
            whole = float(y[..., 0].size) * float(np.log(max(y.shape[-1], 2)))
        else:
            whole = float(np.sum(y[np.isfinite(y)].astype(np.float64) ** 2))
        total[0] += whole
        total[1] += y[..., 0].size if self.measure == "kl" else whole

    @property
    def value(self) -> float:
        """Mean over the outputs; 0 where nothing was compared."""
        ratios = [a / b if b else (0.0 if a == 0 else np.inf) for a, b in self._sums.values()]
        return float(np.mean(ratios)) if ratios else 0.0


def choose_measure(asked: str, outputs: Outputs) -> str:
    """The measure for a model, from what it gives for one batch.

    ``auto`` takes ``kl`` for class scores: a single float output of shape (samples, classes). Without any
    float output it is ``changed``.

    Raises:
        OptionError: an unknown measure, or ``kl`` for a model without class scores.
    """
    floats = [y for y in outputs.values() if y.dtype.kind not in "iubOSU"]
    scores = len(floats) == 1 and floats[0].ndim == 2 and floats[0].shape[1] > 1
    if asked in ("auto", "error") and not floats:
        return "changed"
    if asked == "auto":
        return "kl" if scores else "error"
    if asked not in ("kl", "error"):
        raise OptionError(f"loss {asked!r} is unknown: use kl, error or auto")
    if asked == "kl" and not scores:
        raise OptionError(
            "loss kl needs a model with one output of class scores (samples, classes): use error"
        )
    return asked


def _log_probabilities(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of class scores; scores that are probabilities already are taken as such."""
    if x.min(initial=0.0) >= 0 and np.allclose(x.sum(axis=-1), 1, atol=1e-3):
        return np.log(np.maximum(x, 1e-12))
    return _log_softmax(x)


def _log_softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = x - x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.sum(np.exp(x), axis=-1, keepdims=True)))
