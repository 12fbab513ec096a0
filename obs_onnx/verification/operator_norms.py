"""Norms of layers as operators: upper bounds of ``||y||_F / ||x||_F`` for ``y = W x`` without the bias.

A matrix product applies ``w_GOI`` to every position, so the largest norm of a group is exact. A convolution
``y[p] = sum_j W_j x[p s + j d]`` (kernel offsets j, stride s, dilation d) is bounded in several ways, whose
minimum counts; offsets that can meet on one input element share a *class*, ``j d mod s``:

A. Unfolding repeats each input element at most once per offset of its class:
   ``sqrt(largest class) * ||[W_1 ... W_K]||``.
B. Shifting an image does not stretch it, and different classes read different elements:
   ``sqrt(sum over classes of (sum_j ||W_j||)^2)``.
C. Spreading each input element first, then adding K terms per output element:
   ``sqrt(K) * max over classes ||[W_j; j in class]||``.
D. (spectral norms only, stride ignored) The norm of the convolution on an unbounded image is the maximum
   over all frequencies of ``||sum_j W_j exp(i j w)||``. On a grid of N > 2m points per axis a trigonometric
   polynomial of degree m reaches at least ``cos(pi m / N)`` of its maximum (Ehlich and Zeller, Math.
   Zeitschrift 86, 1964; for convolutions Pfister and Bresler, IEEE Trans. Signal Processing 67, 2019).

Zero padding, cropping and striding only restrict these operators. A transposed convolution is the adjoint
of one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from obs_onnx.passes.traits.linear import ConvGeometry, MatmulGeometry

__all__ = ["frobenius_norm", "spectral_norm"]

Matrices = NDArray[np.float64] | NDArray[np.complex128]
GRID_STEPS = (12, 6, 4)
"""Points per axis and degree tried for D; they cost at most a factor of 1.04, 1.15 and 1.41 per axis."""
WORK_LIMIT = 1e10
"""Multiplications after which D tries a coarser grid, then gives up."""
CHUNK = 1 << 21


def frobenius_norm(w_GOI: NDArray[np.float64], geometry: ConvGeometry | MatmulGeometry) -> float:
    """Bound of the operator's norm from Frobenius norms of ``w_GOI``; for a plain product ``||W||_F``."""
    return _bound(w_GOI, geometry, _frobenius)


def spectral_norm(w_GOI: NDArray[np.float64], geometry: ConvGeometry | MatmulGeometry) -> float:
    """Bound of the operator's norm from largest singular values; exact for a plain product."""
    bound = _bound(w_GOI, geometry, _spectral)
    if isinstance(geometry, MatmulGeometry) or math.prod(geometry.kernel) == 1:
        return bound
    return min(bound, _by_frequencies(_by_offset(w_GOI, geometry), geometry.kernel))


def _bound(
    w_GOI: NDArray[np.float64],
    geometry: ConvGeometry | MatmulGeometry,
    norms: Callable[[Matrices], NDArray[np.float64]],
) -> float:
    """Minimum of the bounds A, B and C with the given matrix norm; the largest over all groups."""
    if isinstance(geometry, MatmulGeometry):
        return float(norms(w_GOI).max())
    w_GKOI = _by_offset(w_GOI, geometry)
    groups, offsets, outputs, inputs = w_GKOI.shape
    classes = _classes(geometry)
    unfolded = w_GKOI.transpose(0, 2, 1, 3).reshape(groups, outputs, offsets * inputs)
    bound_a = math.sqrt(max(map(len, classes))) * norms(unfolded)
    norms_GK = norms(w_GKOI.reshape(-1, outputs, inputs)).reshape(groups, offsets)
    bound_b = np.sqrt(sum(norms_GK[:, members].sum(axis=1) ** 2 for members in classes))
    spread = [norms(w_GKOI[:, members].reshape(groups, -1, inputs)) for members in classes]
    bound_c = math.sqrt(offsets) * np.max(spread, axis=0)
    return float(np.minimum(np.minimum(bound_a, bound_b), bound_c).max())


def _by_offset(w_GOI: NDArray[np.float64], geometry: ConvGeometry) -> NDArray[np.float64]:
    """One matrix per group and kernel offset; for a transposed convolution those of its adjoint."""
    groups, outputs, _ = w_GOI.shape
    w_GOKI = w_GOI.reshape(groups, outputs, math.prod(geometry.kernel), -1)
    w_GKOI: NDArray[np.float64] = w_GOKI.transpose((0, 2, 3, 1) if geometry.transposed else (0, 2, 1, 3))
    return w_GKOI


def _classes(geometry: ConvGeometry) -> list[list[int]]:
    """Flat kernel offsets by the input elements they can meet on."""
    classes: dict[tuple[int, ...], list[int]] = {}
    for index, offset in enumerate(itertools.product(*map(range, geometry.kernel))):
        steps = zip(offset, geometry.dilations, geometry.strides, strict=True)
        classes.setdefault(tuple(j * dilation % stride for j, dilation, stride in steps), []).append(index)
    return list(classes.values())


def _by_frequencies(w_GKOI: NDArray[np.float64], kernel: tuple[int, ...]) -> float:
    """Bound D; infinite where it would cost too much."""
    groups, offsets, outputs, inputs = w_GKOI.shape
    small, large = sorted((outputs, inputs))
    degrees = [size // 2 for size in kernel]
    for step in GRID_STEPS:
        grid = [max(1, step * degree) for degree in degrees]
        work = (
            groups
            * math.prod(grid)
            / 2
            * (4.0 * small * small * (large + small) + outputs * inputs * offsets)
        )
        if work <= WORK_LIMIT:
            break
    else:
        return math.inf
    axes = [np.arange(size) / size for size in grid]
    axes[0] = axes[0][: len(axes[0]) // 2 + 1]  # real weights: opposite frequencies have the same norm
    points_PA = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(kernel))
    offsets_KA = np.array(list(itertools.product(*map(range, kernel))))
    phases_PK = np.exp(2j * np.pi * points_PA @ offsets_KA.T)
    flat_KM = w_GKOI.transpose(1, 0, 2, 3).reshape(offsets, -1)
    chunk = max(1, CHUNK // flat_KM.shape[1])
    largest = max(
        float(_spectral((phases_PK[start : start + chunk] @ flat_KM).reshape(-1, outputs, inputs)).max())
        for start in range(0, len(phases_PK), chunk)
    )
    loss = math.prod(math.cos(math.pi * degree / size) for degree, size in zip(degrees, grid, strict=True))
    return largest / loss


def _frobenius(matrices_BOI: Matrices) -> NDArray[np.float64]:
    squares = np.square(np.abs(matrices_BOI)).sum(axis=(1, 2))
    return np.asarray(np.sqrt(squares), np.float64)


def _spectral(matrices_BOI: Matrices) -> NDArray[np.float64]:
    """Largest singular values from the eigenvalues of the smaller Gram matrices."""
    adjoint = matrices_BOI.conj().transpose(0, 2, 1)
    wide = matrices_BOI.shape[1] <= matrices_BOI.shape[2]
    gram = matrices_BOI @ adjoint if wide else adjoint @ matrices_BOI
    return np.asarray(np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[:, -1], 0.0)), np.float64)
