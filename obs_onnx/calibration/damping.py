"""How much damping a layer's least-squares problem needs, by two-fold cross-validation.

A layer with as many inputs as samples fits the calibration data and little else (a fully connected layer on
two thousand images), a convolution sees every position of every image. For each candidate ``lambda`` the
layer is refitted on one half of the samples and judged on the other, ``w^T h w - 2 c^T w``, and the candidate
with the smallest sum of both wins (Stone 1974; Hastie et al. 2009, section 7.10). All outputs share it: of
many, evenly spaced ones are judged.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from obs_onnx.calibration.second_moments import LayerMoments

__all__ = ["FACTORS", "cross_validated"]

FACTORS = (1.0, 3.0, 10.0, 30.0, 100.0)
_WIDE = 2048  # columns from which every other factor is tried
_ROWS = 128  # outputs of a group that are refitted to compare factors


def cross_validated(
    halves: tuple[LayerMoments, LayerMoments], w_GOI: NDArray[np.float64], damping: float, seed: int = 0
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
    errors = np.zeros(len(factors))
    for fit, test in (halves, halves[::-1]):
        for group in range(groups):
            rows = slice(None, None, max(1, -(-w_GOI.shape[1] // _ROWS)))
            w = w_GOI[group, rows]
            h, g = fit.h[group], test.h[group]
            c = w @ h if fit.c is None else fit.c[group, :, rows].T
            d = w @ g if test.c is None else test.c[group, :, rows].T
            h, c, g, d, old = h[np.ix_(kept, kept)], c[:, kept], g[np.ix_(kept, kept)], d[:, kept], w[:, kept]
            scale = float(np.trace(h)) / len(h)
            for number, factor in enumerate(factors):
                ridge = factor * damping * scale
                a = h.copy()
                a[np.diag_indices_from(a)] += ridge
                _, solution, info = lapack.dposv(a, (c + ridge * old).T, overwrite_a=1, overwrite_b=1)
                if info != 0:
                    errors[number] = np.inf
                    continue
                found = np.asarray(solution).T
                errors[number] += float(np.sum((found @ g) * found) - 2 * np.sum(found * d))
    return damping * factors[int(np.argmin(errors))]
