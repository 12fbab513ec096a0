"""The layer-wise least-squares problem that all solvers share.

A layer with inputs of second moment ``h`` and cross moment ``c`` with its target wants, per group and output,

    min_w  w^T h w - 2 c^T w + lambda m |w - w_dense|^2,        m = mean(diag h),

which is ``w^T A w - 2 b^T w`` with ``A = h + lambda m I`` and ``b = c + lambda m w_dense``; its minimum is
``w* = A^-1 b``. Damping is relative to the inputs' mean energy and pulls towards the dense weight, so
what the data do not determine stays as it was.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from obs_onnx.passes.errors import DataError, OptionError

__all__ = ["Problem", "Solution", "inverse_of", "prepare"]

Float = NDArray[np.float64]

_MAX_TRIES = 14
_SMALLEST_DAMPING = 1e-10
_LARGE = 1e-3  # damping that keeps the condition of A far from what float64 can tell
_NARROW = 64  # columns up to which all groups are handled at once
_TILE = 256  # rows and columns that are mirrored at a time


@dataclass(frozen=True)
class Problem:
    """Damped problem of one layer; stacked over groups G, float64.

    Attributes:
        a: (G, I, I) damped moment A, positive definite.
        b: (G, O, I) damped cross moment.
        w: (G, O, I) dense weight.
        ridge: (G,) what was added to the diagonal of the moment.
        dead: (G, I) inputs that are always zero (or constant, if the moments are centred).
        constant: error of w = 0, or None if the target's energy is unknown: errors are then relative to w*.
        damping: relative damping in use; larger than asked for where A was not positive definite with that.
        factors: of each A the Cholesky factor, lower, (I, I); of narrow ones none. The inverse takes their
            place, and none are left.
    """

    a: Float
    b: Float
    w: Float
    ridge: Float
    dead: NDArray[np.bool_]
    constant: float | None
    damping: float
    factors: list[Float] = field(repr=False)

    @cached_property
    def inverse(self) -> Float:
        """A^-1, (G, I, I)."""
        if not self.factors:
            return np.asarray(inverse_of(self.a.copy()), dtype=np.float64)
        _ = self.optimum  # which takes the factors, too
        found = np.empty_like(self.a)
        for matrix in found:
            _mirror(_inverted(self.factors.pop(0)).T, matrix)
        return found

    @cached_property
    def shared(self) -> dict[Hashable, Any]:
        """What solvers computed for this problem and may need again, by their own keys."""
        return {}

    @cached_property
    def optimum(self) -> Float:
        """w*, (G, O, I), with one step of iterative refinement unless damping is large for float64."""
        if self.a.shape[1] <= _NARROW:
            w = self.b @ self.inverse
            w += (self.b - w @ self.a) @ self.inverse
            return np.asarray(w)
        refined = self.damping < _LARGE
        w = np.empty_like(self.b)
        for group, (a, b, factor) in enumerate(zip(self.a, self.b, self.factors, strict=True)):
            w[group] = lapack.dpotrs(factor, b.T, lower=1)[0].T
            if refined:
                w[group] += lapack.dpotrs(factor, (b - w[group] @ a).T, lower=1)[0].T
        return w

    @cached_property
    def start(self) -> Float:
        """w* with the weights of dead inputs set to zero: they cost nothing and go first."""
        return np.where(self.dead[:, None, :], 0.0, self.optimum)

    def error(self, w: Float, stationary: bool = False) -> float:
        """Relative squared error of the layer's output, without the damping.

        Args:
            w: (G, O, I) weights.
            stationary: ``w`` solves the normal equations on its own support, which saves a product with A.
        """
        pull = self.ridge[:, None, None]
        c = self.b - pull * self.w
        quadratic = (w * self.b).sum() if stationary else ((w @ self.a) * w).sum()
        quadratic -= (pull * w * w).sum()
        excess = float(quadratic - 2 * (w * c).sum())
        if self.constant is not None:
            energy, floor = self.constant, 0.0
        else:
            best = self.optimum
            energy = float((best * self.b).sum() - (pull * best * best).sum())
            floor = float(energy - 2 * (best * c).sum() + energy)
        if energy <= 0:
            return 0.0
        return max(0.0, (energy + excess - floor) / energy)


@dataclass(frozen=True)
class Solution:
    """A pruned layer.

    Attributes:
        w: (G, O, I) float64 weights, exactly zero where ``mask`` is False.
        mask: (G, O, I) kept weights.
        error: squared output error of the layer relative to the energy of its target; if that energy is
            unknown, the excess over the best dense weights relative to the energy of their output.
        damping: relative damping that was used.
        method: the solver that ran.
    """

    w: Float
    mask: NDArray[np.bool_]
    error: float
    damping: float
    method: str

    @property
    def sparsity(self) -> float:
        """Share of removed weights."""
        return 1.0 - float(self.mask.mean())


def inverse_of(a: NDArray[np.floating]) -> NDArray[np.floating]:
    """Inverses of positive definite matrices (G, I, I), in their own precision; wide ones in their place.

    Raises:
        numpy.linalg.LinAlgError: a matrix is not positive definite.
    """
    if a.shape[1] <= _NARROW:
        np.linalg.cholesky(a)
        inverse = np.linalg.inv(a)
        return np.asarray((inverse + inverse.swapaxes(1, 2)) / 2)
    for matrix in a:
        factor = _factor(matrix, overwrite=True)
        if factor is None:
            raise np.linalg.LinAlgError("matrix is not positive definite")
        _mirror(_inverted(factor).T, matrix)
    return a


def _factor(matrix: NDArray[np.floating], overwrite: bool = False) -> NDArray[Any] | None:
    """Lower Cholesky factor of a symmetric matrix (I, I), with anything above; None if it is not definite."""
    factorise = lapack.spotrf if matrix.dtype == np.float32 else lapack.dpotrf
    factor, info = factorise(matrix.T, lower=1, clean=0, overwrite_a=overwrite)
    return factor if info == 0 else None


def _inverted(factor: NDArray[Any]) -> NDArray[Any]:
    """Lower triangle of the inverse of what was factorised, in the place of its factor.

    Raises:
        numpy.linalg.LinAlgError: there is none.
    """
    invert = lapack.spotri if factor.dtype == np.float32 else lapack.dpotri
    found, info = invert(factor, lower=1, overwrite_c=1)
    if info != 0:
        raise np.linalg.LinAlgError("matrix is not positive definite")
    return np.asarray(found)


def _mirror(upper: NDArray[np.floating], result: NDArray[np.floating]) -> None:
    """Put the symmetric matrix whose upper triangle is given into ``result``, both (I, I)."""
    columns = len(upper)
    for first in range(0, columns, _TILE):
        rows = slice(first, first + _TILE)
        result[rows, first:] = upper[rows, first:]
        square = result[rows, rows]
        square[...] = np.triu(square) + np.triu(square, 1).T
        result[first + _TILE :, rows] = upper[rows, first + _TILE :].T


def _factors(a: Float) -> list[Float] | None:
    """Cholesky factors of matrices (G, I, I), none of narrow ones; None if one is not positive definite."""
    if a.shape[1] <= _NARROW:
        try:
            np.linalg.cholesky(a)
        except np.linalg.LinAlgError:
            return None
        return []
    factors = list[Float]()
    for matrix in a:
        if (factor := _factor(matrix)) is None:
            return None
        factors.append(factor)
    return factors


def _stacked(array: NDArray[np.floating], name: str) -> Float:
    stacked: Float = np.asarray(array, dtype=np.float64)
    if stacked.ndim == 2:
        stacked = stacked[None]
    if stacked.ndim != 3:
        raise DataError(f"{name} has {stacked.ndim} axes instead of 2 (one group) or 3")
    if not np.isfinite(stacked).all():
        raise DataError(f"{name} has values that are not finite")
    return stacked


def prepare(
    h: NDArray[np.floating],
    w: NDArray[np.floating],
    c: NDArray[np.floating] | None = None,
    energy: NDArray[np.floating] | None = None,
    damping: float = 1e-2,
) -> Problem:
    """Damp a layer's moments until they are safely positive definite.

    Args:
        h: (G, I, I) second moments of the layer's inputs, of any scale: raw for a layer without bias, about
            the mean for one with a bias (see :meth:`obs_onnx.calibration.second_moments.Moments.centred`).
        w: (G, O, I) dense weight. In ``h`` and ``w`` a single group may come without its axis.
        c: (G, I, O) cross moment of inputs and target, centred like ``h``. None: the target is the dense
            layer's output on the same inputs, ``c = h w^T``.
        energy: (G, O) sums of squares of the target, centred alike; makes :attr:`Solution.error` relative to
            the target. Without it, given ``c``, errors are the excess over the best dense weights.
        damping: lambda relative to the mean of diag(h) per group, also the pull towards ``w``; raised tenfold
            until Cholesky succeeds, see :attr:`Solution.damping`.

    Raises:
        DataError: shapes do not fit, or values are not finite.
        OptionError: negative damping.
    """
    if not damping >= 0:
        raise OptionError(f"a damping of {damping} is negative")
    h, w = _stacked(h, "second moment"), _stacked(w, "weight")
    if h.shape[0] != w.shape[0] or h.shape[1:] != (w.shape[2],) * 2:
        raise DataError(f"a second moment of shape {h.shape} does not fit a weight of shape {w.shape}")
    dense = w @ h
    if c is None:
        target = dense
        constant: float | None = float((dense * w).sum())
    else:
        target = _stacked(c, "cross moment").swapaxes(1, 2)
        if target.shape != w.shape:
            raise DataError(f"a cross moment of shape {np.shape(c)} does not fit a weight of shape {w.shape}")
        constant = None if energy is None else float(np.sum(energy, dtype=np.float64))
    diagonal = np.einsum("gii->gi", h)
    dead = diagonal <= 1e-14 * diagonal.max(initial=0.0)
    scale = diagonal.mean(axis=1)
    usual = scale[scale > 0].mean() if (scale > 0).any() else 1.0
    scale = np.maximum(scale, 1e-9 * usual)
    a = h.copy()
    energies = diagonal.copy()
    for _ in range(_MAX_TRIES):
        ridge = damping * scale
        np.einsum("gii->gi", a)[...] = energies + ridge[:, None]
        factors = _factors(a)
        if factors is not None:
            break
        damping = max(10 * damping, _SMALLEST_DAMPING)
    else:
        raise DataError("second moment is not positive semi-definite, whatever the damping")
    return Problem(a, target + ridge[:, None, None] * w, w, ridge, dead, constant, damping, factors)
