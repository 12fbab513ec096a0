"""Exact least squares on a given support.

Per row, with S the kept and R the removed columns, the minimum of ``w^T A w - 2 b^T w`` on S is

    w_S = (A_SS)^-1 b_S                           few kept, or
    w   = w* - A^-1_:R (A^-1_RR)^-1 w*_R          few removed (OBS for several weights at once).

Both cost the cube of the smaller set. For wide layers near one half, conjugate gradients on all rows at once
are cheaper: products in float32 inside, residuals in float64 outside (iterative refinement).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from obs_onnx.solvers.blas_threads import RowThreads, row_threads, threads_for
from obs_onnx.solvers.problem import Problem

__all__ = ["conjugate_gradients", "refit"]

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

_BATCH_COLUMNS = 48
_BATCH_ELEMENTS = 1 << 21
_CG_COLUMNS = 1024
_CG_ITERATIONS = 60
_DEFLATED, _MOST_DEFLATED = 1 / 32, 128  # directions of a matrix that are solved for by themselves
_INVERTED = 256  # rows whose systems of these directions are inverted at a time
_SINGLE = 1e-8  # square of the residual that float32 reaches


def _small(problem: Problem, mask: Mask) -> Float:
    """Rows of narrow layers, many at a time: removed columns become identity equations."""
    groups, rows, columns = mask.shape
    flat = mask.reshape(-1, columns)
    group_of = np.repeat(np.arange(groups), rows)
    b = problem.b.reshape(-1, columns) * flat
    result = np.empty_like(b)
    step = max(1, _BATCH_ELEMENTS // columns**2)
    for first in range(0, len(flat), step):
        part = slice(first, first + step)
        keep = flat[part]
        a = problem.a[group_of[part]] * (keep[:, :, None] & keep[:, None, :])
        diagonal = np.einsum("rii->ri", a)
        diagonal += ~keep
        result[part] = np.linalg.solve(a, b[part, :, None])[:, :, 0]
    return np.asarray((result * flat).reshape(mask.shape))


def _solve(a: Float, b: Float) -> Float:
    """Solution x (rows, columns) of ``x a = b`` for symmetric positive definite ``a``."""
    _, x, info = lapack.dposv(a, b.T)
    return np.asarray(x.T if info == 0 else np.linalg.lstsq(a, b.T, rcond=None)[0].T)


def _on_support(problem: Problem, group: int, rows: NDArray[np.int64], keep: Mask) -> Float:
    """Rows (n, I) that share one support."""
    w = np.zeros((len(rows), keep.size))
    kept, removed = np.flatnonzero(keep), np.flatnonzero(~keep)
    if not len(removed):
        return np.asarray(problem.optimum[group, rows])
    if len(kept) <= len(removed):
        if len(kept):
            a = problem.a[group].take(kept, axis=0).take(kept, axis=1)
            w[:, kept] = _solve(a, problem.b[group][rows[:, None], kept])
        return w
    inverse, best = problem.inverse[group], problem.optimum[group, rows]
    columns = inverse.take(removed, axis=0)
    w = best - _solve(columns.take(removed, axis=1), best[:, removed]) @ columns
    w[:, removed] = 0.0
    return np.asarray(w)


def conjugate_gradients(
    a: Float,
    b: Float,
    keep: Mask,
    start: Float,
    tolerance: float = 1e-9,
    rounds: int = 8,
    iterations: int = 400,
) -> Float:
    """Solve ``A_SS w_S = b_S`` for all rows at once, to a relative residual of ``tolerance``.

    Jacobi-preconditioned conjugate gradients in float32 for the correction, repeated on float64 residuals.

    Args:
        a: (I, I) positive definite.
        b: (O, I) right-hand sides.
        keep: (O, I) supports.
        start: (O, I) first guess.
        tolerance: of the residual's norm, relative to that of the right-hand side on the support.
        rounds: most float64 residuals.
        iterations: most steps per round.
    """
    with row_threads(len(a)) as threads:
        return _conjugate(threads, a, b, keep, start, tolerance, rounds, iterations)


def _conjugate(
    threads: RowThreads,
    a: Float,
    b: Float,
    keep: Mask,
    start: Float,
    tolerance: float,
    rounds: int,
    iterations: int,
) -> Float:
    scale = 1.0 / np.sqrt(np.diag(a))
    a32 = np.multiply(a, scale[:, None], out=np.empty(a.shape, np.float32), casting="same_kind")
    a32 *= scale.astype(np.float32)
    mask32 = keep.astype(np.float32)
    w = np.where(keep, start, 0.0)
    size = np.maximum(np.linalg.norm(np.where(keep, b * scale, 0.0), axis=1), np.finfo(float).tiny)
    deflated = _Deflated.of(a32, mask32)
    for _ in range(rounds):
        residual = np.where(keep, (b - threads.product(w, a)) * scale, 0.0)
        now = np.linalg.norm(residual, axis=1)
        active = np.flatnonzero(now > tolerance * size)
        if not len(active):
            break
        unit = now[active, None]
        r = (residual[active] / unit).astype(np.float32)
        enough = np.maximum(_SINGLE, (tolerance / 2 * size[active] / now[active]) ** 2)
        keep32, eased = mask32[active], deflated.of_rows(active)
        z = eased(r, keep32)
        x, p = np.zeros_like(r), z.copy()
        energy = np.einsum("oi,oi->o", r, z)
        for _ in range(iterations):
            q = threads.product(p, a32) * keep32
            step = energy / np.maximum(np.einsum("oi,oi->o", p, q), np.finfo(np.float32).tiny)
            x += step[:, None] * p
            r -= step[:, None] * q
            if (np.einsum("oi,oi->o", r, r) < enough).all():
                break
            z = eased(r, keep32)
            fresh = np.einsum("oi,oi->o", r, z)
            p *= (fresh / np.maximum(energy, np.finfo(np.float32).tiny))[:, None]
            p += z
            energy = fresh
        w[active] += x * unit * scale
    return w


@dataclass(frozen=True)
class _Deflated:
    """A preconditioner that takes the largest directions of a matrix away from conjugate gradients.

    On the support S of a row it is the inverse of ``U_S diag(l) U_S^T + m I`` (Frangella, Tropp and Udell,
    "Randomized Nystrom preconditioning", 2023), with eigenvectors U and eigenvalues l of all columns from
    one step of subspace iteration (Halko, Martinsson and Tropp 2011) and the least of these as m:

        (1 - U_S K^-1 U_S^T) / m,        K = m diag(l)^-1 + U_S^T U_S.

    Attributes:
        u: (I, k) the directions.
        k: (O, k, k) the inverses of K of all rows.
        floor: m.
    """

    u: Float32
    k: Float32
    floor: np.float32

    @classmethod
    def of(cls, a: Float32, keep: Float32) -> _Deflated:
        """For a matrix (I, I) of unit diagonal and supports (O, I) of ones and zeros."""
        size = max(1, min(round(len(a) * _DEFLATED), _MOST_DEFLATED))
        probe = np.linalg.qr(np.random.default_rng(0).standard_normal((len(a), size), np.float32))[0]
        probe = np.linalg.qr(a @ probe)[0]
        values, turn = np.linalg.eigh(probe.T @ (a @ probe))
        floor = np.float32(max(values[0], np.finfo(np.float32).eps * values[-1]))
        u = probe @ turn
        upper = np.triu_indices(size)
        inner = np.empty((len(keep), size, size), np.float32)
        inner[:, upper[0], upper[1]] = keep @ (u[:, upper[0]] * u[:, upper[1]])
        inner[:, upper[1], upper[0]] = inner[:, upper[0], upper[1]]
        np.einsum("okk->ok", inner)[...] += floor / np.maximum(values, floor)
        for first in range(0, len(inner), _INVERTED):
            inner[first : first + _INVERTED] = np.linalg.inv(inner[first : first + _INVERTED])
        return cls(u, inner, floor)

    def of_rows(self, rows: NDArray[np.int64]) -> _Deflated:
        """For some of the rows."""
        return replace(self, k=self.k[rows])

    def __call__(self, r: Float32, keep: Float32) -> Float32:
        """Rows (O, I) that vanish outside of their supports ``keep``, multiplied by it."""
        inside = np.matmul(self.k, (r @ self.u)[:, :, None])[:, :, 0]
        return np.asarray((r - (inside @ self.u.T) * keep) / self.floor, np.float32)


def refit(problem: Problem, mask: Mask, tolerance: float = 1e-9, start: Float | None = None) -> Float:
    """Best weights on a support.

    Args:
        problem: the layer.
        mask: (G, O, I) kept weights.
        tolerance: relative residual of the normal equations where conjugate gradients solve them.
        start: (G, O, I) what they start from; by default the optimum of all weights.

    Returns:
        (G, O, I) weights, exactly zero outside the support, least squares optimal on it.
    """
    groups, _, columns = mask.shape
    if columns <= _BATCH_COLUMNS:
        return _small(problem, mask)
    w = np.empty(mask.shape)
    for group in range(groups):
        kept = mask[group].sum(axis=1)
        iterations = _CG_ITERATIONS if tolerance < 1e-6 else _CG_ITERATIONS / 3
        if columns >= _CG_COLUMNS:
            smaller = np.minimum(kept, columns - kept).astype(np.float64)
            direct = (smaller**3).sum() / 75e9 + (smaller**2).sum() * 4e-9
            iterative = 2.0 * len(kept) * columns**2 * (iterations / 60e9 + 4 / 30e9)
            if iterative < direct and len(np.unique(mask[group], axis=0)) > len(kept) // 2:
                first = problem.optimum if start is None else start
                w[group] = conjugate_gradients(
                    problem.a[group], problem.b[group], mask[group], first[group], tolerance
                )
                continue
        supports: dict[bytes, list[int]] = {}
        for row, packed in enumerate(np.packbits(mask[group], axis=1)):
            supports.setdefault(packed.tobytes(), []).append(row)
        size = int(np.minimum(kept, columns - kept).max())
        with threads_for(size) if columns >= _CG_COLUMNS else nullcontext():
            for members in supports.values():
                rows = np.asarray(members)
                w[group, rows] = _on_support(problem, group, rows, mask[group, members[0]])
    return w
