"""How much damping a layer's least-squares problem needs, by two-fold cross-validation.

A layer with as many inputs as samples fits the calibration data and little else (a fully connected layer on
two thousand images), a convolution sees every position of every image. For each candidate ``lambda`` the
layer is refitted on one half of the samples and judged on the other, ``w^T h w - 2 c^T w``, and the candidate
with the smallest sum of both wins (Stone 1974; Hastie et al. 2009, section 7.10). The error first falls with
``lambda``, then rises: the first candidate after which it rises is the last that is tried. All outputs share
it: of many, evenly spaced ones are judged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from obs_onnx.calibration.second_moments import LayerMoments

__all__ = ["FACTORS", "cross_validated"]

Float = NDArray[np.float64]

FACTORS = (1.0, 3.0, 10.0, 30.0, 100.0)
_WIDE = 2048  # columns from which every other factor is tried
_COARSE = 1e-4  # damping from which 32 bits are enough
_ROWS = 128  # outputs of a group that are refitted to compare factors


def cross_validated(
    halves: tuple[LayerMoments, LayerMoments], w_GOI: Float, damping: float, seed: int = 0
) -> float:
    """The best of ``damping`` times :data:`FACTORS`, relative to the mean diagonal of the second moments.

    Without targets the layer is judged by how well a random half of its columns stands in for all.

    Args:
        halves: moments of two halves of the samples.
        w_GOI: present weight, towards which damping pulls.
        damping: the least one.
        seed: of the random half.
    """
    groups, _, columns = w_GOI.shape
    if min(half.count for half in halves) < 2 or damping <= 0:
        return damping
    kept = np.ones(columns, bool)
    if halves[0].c is None and columns > 1:
        kept[np.random.default_rng(seed).permutation(columns)[columns // 2 :]] = False
    factors = FACTORS if columns < _WIDE else FACTORS[::2]
    parts = [
        _Part.of(fit, test, w_GOI, group, kept, np.float32 if damping >= _COARSE else np.float64)
        for fit, test in (halves, halves[::-1])
        for group in range(groups)
    ]
    best, least = factors[0], np.inf
    for factor in factors:
        error = sum(part.error(factor * damping) for part in parts)
        if error > least:
            break
        if error < least:
            best, least = factor, error
    return damping * best


@dataclass(frozen=True)
class _Part:
    """A group of a layer on one half of the samples, judged on the other.

    Weights are told by what they differ from the present ones. That is little, so 32 bits are enough unless
    the damping is small.

    Attributes:
        h, g: (I, I) moments to fit to, and to judge by, relative to the mean of their diagonals.
        c, d: (O, I) what the present weights leave of the cross moments that go with them, likewise.
        scale: mean of the diagonal of the moments to judge by.
    """

    h: NDArray[np.floating]
    g: NDArray[np.floating]
    c: NDArray[np.floating]
    d: NDArray[np.floating]
    scale: float

    @classmethod
    def of(
        cls,
        fit: LayerMoments,
        test: LayerMoments,
        w_GOI: Float,
        group: int,
        kept: NDArray[np.bool_],
        dtype: type[np.floating],
    ) -> _Part:
        """Some rows of a group, and the ``kept`` (I,) columns."""
        rows = slice(None, None, max(1, -(-w_GOI.shape[1] // _ROWS)))
        w, at = w_GOI[group, rows], np.flatnonzero(kept)
        left = np.where(kept, 0.0, w)  # what stands in for the weights of the other columns
        h, g = fit.h[group], test.h[group]
        c = left @ h if fit.c is None else fit.c[group, :, rows].T - w @ h
        d = left @ g if test.c is None else test.c[group, :, rows].T - w @ g
        if len(at) < len(kept):
            h, g, c, d = (
                h[at].take(at, axis=1),
                g[at].take(at, axis=1),
                c.take(at, axis=1),
                d.take(at, axis=1),
            )
        fitted, judged = (float(np.trace(one)) / len(one) or 1.0 for one in (h, g))
        return cls(
            _divided(h, fitted, dtype),
            _divided(g, judged, dtype),
            _divided(c, fitted, dtype),
            _divided(d, judged, dtype),
            judged,
        )

    def error(self, damping: float) -> float:
        """Squared error, but for a constant, on the other half; infinite where nothing can be fitted."""
        a = self.h.copy()
        a[np.diag_indices_from(a)] += self.h.dtype.type(damping)
        solve = lapack.sposv if a.dtype == np.float32 else lapack.dposv
        _, solution, info = solve(a.T, self.c.T, lower=1, overwrite_a=1)
        if info != 0:
            return float(np.inf)
        found = np.asarray(solution).T
        quadratic = np.sum((found @ self.g) * found, dtype=np.float64)
        return self.scale * float(quadratic - 2 * np.sum(found * self.d, dtype=np.float64))


def _divided(array: Float, by: float, dtype: type[np.floating]) -> NDArray[np.floating]:
    """``array / by`` in another precision."""
    return np.divide(array, by, out=np.empty(array.shape, dtype), casting="same_kind")
