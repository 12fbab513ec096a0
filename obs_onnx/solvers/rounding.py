"""Weights on a grid of integers by error feedback: Optimal Brain Surgeon for rounding (Frantar et al. 2022).

Rounded to ``w* + e``, a row's squared error rises by ``e^T A e``. Columns are rounded one after another;
those that are still free take up what was lost (GPTQ, Frantar et al. 2023, arXiv 2210.17323, with the upper
Cholesky factor of the inverse). With ``A = V V^T`` and V upper triangular the error is

    e^T A e = sum_j (V_jj e_j + sum_{i<j} V_ij e_i)^2,

so column j is best rounded at ``w*_j - sum_{i<j} V_ij e_i / V_jj``. This is the same, without an inverse.
Columns of large second moment come first. Products with what lies behind a block wait until the block is
done.

Two passes over single columns follow (coordinate descent, Behdin et al. 2023, arXiv 2309.01885), each of
which lowers the error or leaves it. Weights that a mask takes away stay at the zero point: feedback takes
them for free columns, which the passes mend. A row that nearest rounding suits better is rounded so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from obs_onnx.passes.errors import DataError
from obs_onnx.solvers.blas_threads import threads_for
from obs_onnx.solvers.grids import Float, Grid, GridKind, Integer, choose_grid
from obs_onnx.solvers.least_squares import refit
from obs_onnx.solvers.problem import Problem

__all__ = ["Rounded", "rescaled", "round_weights"]

Mask = NDArray[np.bool_]

_BLOCK = 128  # columns whose products with the rest wait
_SINGLE = 1024  # columns from which waiting products are of float32
_SWEEPS = 2
_ROUNDS = 2  # scales are chosen again so many times
_LEAST = 0.1  # of a scale, that least squares may make of it
_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Rounded:
    """A layer whose weights are integers.

    Attributes:
        q: (G, O, I) integers.
        grid: what they stand for.
        error: what rounding adds to the layer's damped squared error, relative to the energy of its output.
        nearest: the same of nearest rounding on the grid that was chosen first.
        damping: relative damping that was used.
    """

    q: Integer
    grid: Grid
    error: float
    nearest: float
    damping: float

    @property
    def w(self) -> Float:
        """(G, O, I) the weights."""
        return self.grid.values(self.q)


def round_weights(
    problem: Problem, kind: GridKind | Grid, mask: Mask | None = None, rescale: bool = True
) -> Rounded:
    """Round a layer to the best grid of a kind.

    A grid is searched with all inputs alike and with each input by its second moment, and the better one
    of each row goes on. Given the integers, scales are chosen again, and the integers anew, where that helps.

    Args:
        problem: the layer; see :func:`obs_onnx.solvers.problem.prepare`.
        kind: of the grid; or the grid to start from.
        mask: (G, O, I) weights that may differ from zero; None: all.
        rescale: False leaves the first scales.

    Raises:
        DataError: the grid does not fit the layer.
    """
    with threads_for(problem.a.shape[1]):
        return _round_weights(problem, kind, mask, rescale)


def _round_weights(problem: Problem, kind: GridKind | Grid, mask: Mask | None, rescale: bool) -> Rounded:
    best = problem.optimum if mask is None else refit(problem, mask)
    task = _Task(problem.a, best, mask)
    if isinstance(kind, Grid):
        grids = [kind]
    else:
        grids = [choose_grid(best, kind), choose_grid(best, kind, np.einsum("gii->gi", problem.a))]
    q, grid = task.better([(task.rounded(one), one) for one in grids])
    nearest = task.loss(grid.values(task.nearest(grid)))
    for _ in range(_ROUNDS if rescale else 0):
        again = rescaled(problem.a, best, q, grid)
        q, grid = task.better([(q, grid), (q, again), (task.rounded(again), again)])
    return Rounded(q, grid, task.loss(grid.values(q)), nearest, problem.damping)


def rescaled(a_GII: Float, best: Float, q: Integer, grid: Grid) -> Grid:
    """The grid with the scales that are best for given integers.

    With ``z = q - zero`` and scales s_b of the blocks, ``sum_b s_b z_b`` is to be next to the best weights: a
    system with a line for each block, ``(z_b^T A z_c) s = z_b^T A w*``; scales that would change their sign
    stay.
    """
    groups, rows, columns = q.shape
    count = grid.scale.shape[2]
    starts = np.arange(count) * grid.block
    z = (q - grid.spread(columns)[1]).astype(np.float64)
    shape = grid.scale.shape
    step = max(1, _ELEMENTS // (count * max(count, columns)))
    matrix, right = np.zeros((*shape, count)), np.zeros(shape)
    for group in range(groups):
        a, to = a_GII[group], min(group, shape[0] - 1)
        wanted = best[group] @ a
        for first in range(0, rows, step):
            part = slice(first, first + step)
            zs = z[group, part]
            r = np.add.reduceat(zs * wanted[part], starts, axis=1)
            m = np.empty((len(zs), count, count))
            for b, start in enumerate(starts):
                inside = slice(start, start + grid.block)
                m[:, b] = np.add.reduceat((zs[:, inside] @ a[inside]) * zs, starts, axis=1)
            if shape[1] == 1:
                matrix[to, 0] += m.sum(axis=0)
                right[to, 0] += r.sum(axis=0)
            else:
                matrix[to, part] += m
                right[to, part] += r
    diagonal = np.einsum("gobb->gob", matrix)
    diagonal += np.where(diagonal > 0, 1e-10 * diagonal, 1.0)
    scale = np.linalg.solve(matrix, right[..., None])[..., 0]
    fine = np.isfinite(scale) & (scale * grid.scale > _LEAST * grid.scale**2)
    return replace(grid, scale=np.where(fine, scale, grid.scale))


@dataclass(frozen=True)
class _Task:
    """What is to be rounded: moments (G, I, I), best weights (G, O, I) and their support."""

    a: Float
    best: Float
    mask: Mask | None

    def losses(self, w: Float) -> Float:
        """(G, O) what each row loses against the best weights."""
        wrong = w - self.best
        return np.asarray(np.einsum("goi,goi->go", wrong @ self.a, wrong))

    def loss(self, w: Float) -> float:
        """The sum of that, relative to the energy of the best weights' output."""
        energy = float(self.losses(np.zeros_like(self.best)).sum())
        return float(self.losses(w).sum()) / energy if energy > 0 else 0.0

    def nearest(self, grid: Grid) -> Integer:
        """Integers whose weights are nearest, and zero points off the support."""
        q = grid.nearest(self.best)
        return q if self.mask is None else np.asarray(np.where(self.mask, q, grid.spread(q.shape[2])[1]))

    def better(self, found: list[tuple[Integer, Grid]]) -> tuple[Integer, Grid]:
        """For each row the best of several roundings; for all rows one, where they share scales."""
        losses = np.stack([self.losses(grid.values(q)) for q, grid in found])
        for axis, length in enumerate(found[0][1].scale.shape[:2]):
            if length == 1:
                losses = losses.sum(axis=axis + 1, keepdims=True)
        chosen = losses.argmin(axis=0)[..., None]
        scale = np.choose(chosen, [grid.scale for _, grid in found])
        zero = np.choose(chosen, [grid.zero for _, grid in found])
        q = np.choose(chosen, [q for q, _ in found])
        return np.asarray(q), replace(found[0][1], scale=scale, zero=zero)

    def rounded(self, grid: Grid) -> Integer:
        """Integers (G, O, I) by error feedback."""
        shape = self.best.shape
        fits = all(have in (1, want) for have, want in zip(grid.scale.shape, shape[:2], strict=False))
        if not fits or grid.scale.shape[2] not in (1, -(-shape[2] // grid.block)):
            raise DataError(f"scales of shape {grid.scale.shape} do not fit a weight of shape {shape}")
        nearest = self.nearest(grid)
        q: Integer = nearest.copy()
        spread = [np.broadcast_to(one, shape) for one in grid.spread(shape[2])]
        for group, (a, best) in enumerate(zip(self.a, self.best, strict=True)):
            keep = None if self.mask is None else self.mask[group].T
            scale, zero = (one[group].T for one in spread)
            columns = _Columns(
                a, np.ascontiguousarray(best.T), keep, scale, zero, (grid.lowest, grid.highest)
            )
            e = columns.fed_back()
            for _ in range(_SWEEPS):
                columns.sweep(e)
            q[group] = columns.integers(e).T
        worse = self.losses(grid.values(q)) > self.losses(grid.values(nearest))
        q[worse] = nearest[worse]
        return q


@dataclass(frozen=True)
class _Columns:
    """A group of a layer, inputs first.

    Attributes:
        a: (I, I) damped second moments.
        best: (I, O) weights to round.
        keep: (I, O) those that may differ from zero; None: all.
        scale, zero: (I, O) of the grid.
        ends: lowest and highest integer.
    """

    a: Float
    best: Float
    keep: Mask | None
    scale: Float
    zero: Integer
    ends: tuple[int, int]

    @property
    def bulk(self) -> type[np.floating]:
        """Precision of products that wait."""
        return np.float32 if len(self.a) >= _SINGLE else np.float64

    def integers(self, e: Float) -> Integer:
        """(I, O) integers of weights that are ``e`` off the best ones."""
        return np.asarray(np.rint((self.best + e) / self.scale).astype(np.int64) + self.zero)

    def error(self, target: Float, j: int) -> Float:
        """(O,) how far from the best weights column ``j`` is, rounded at a target."""
        scale, zero = self.scale[j], self.zero[j]
        q = np.clip(np.rint(target / scale), self.ends[0] - zero, self.ends[1] - zero)
        wrong: Float = q * scale - self.best[j]
        return np.asarray(wrong if self.keep is None else np.where(self.keep[j], wrong, -self.best[j]))

    def fed_back(self) -> Float:
        """(I, O) errors of the weights, rounded column by column, the largest second moments first."""
        order = np.argsort(-np.diag(self.a), kind="stable")
        # the factor V of A is the lower one of A with its axes reversed, reversed
        lower = np.linalg.cholesky(self.a[np.ix_(order[::-1], order[::-1])])
        upper = lower[::-1, ::-1]
        slope = np.ascontiguousarray((upper / np.diag(upper)).T)
        far = slope.astype(self.bulk, copy=False)
        count, columns = len(order), self.best.shape[1]
        e, pulled = np.empty((count, columns)), np.zeros((count, columns), self.bulk)
        for first in range(0, count, _BLOCK):
            last = min(first + _BLOCK, count)
            for j in range(first, last):
                pull = pulled[j] + slope[j, first:j] @ e[first:j]
                e[j] = self.error(self.best[order[j]] - pull, order[j])
            pulled[last:] += far[last:, first:last] @ e[first:last].astype(self.bulk, copy=False)
        found = np.empty_like(e)
        found[order] = e
        return found

    def sweep(self, e: Float) -> None:
        """Round each column again, given all others; changes ``e`` (I, O)."""
        far = self.a.astype(self.bulk, copy=False)
        pulled = far @ e.astype(self.bulk, copy=False)
        for first in range(0, len(e), _BLOCK):
            part = slice(first, first + _BLOCK)
            near, before = pulled[part].astype(np.float64), e[part].copy()
            for j in range(first, first + len(near)):
                done = j - first
                row = near[done] + self.a[j, first:j] @ (e[first:j] - before[:done])
                e[j] = self.error(self.best[j] + e[j] - row / self.a[j, j], j)
            pulled += far[:, part] @ (e[part] - before).astype(self.bulk, copy=False)
