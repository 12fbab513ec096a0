"""Optimal Brain Surgeon, exact and greedy, row by row (Hassibi & Stork 1993; per layer: Dong et al. 2017).

Removing weight q of a row changes the error by ``w_q^2 / [P]_qq`` with ``P = (A_SS)^-1`` over the weights S
that are left (eq. 5 of Dong et al., twice), moves the others by ``-w_q / [P]_qq P e_q``, and leaves

    P  <-  P - P e_q e_q^T P / [P]_qq.

Started from the optimum w*, every step is then least-squares optimal on its own support, so only the order
and the losses are stored; the weights come from one refit. Downdates are collected, 32 at a time, into
one matrix product; removed rows and columns are dropped now and then; several rows of the weight go side
by side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas

from obs_onnx.passes.errors import OptionError
from obs_onnx.solvers.patterns import UNSTRUCTURED, Pattern
from obs_onnx.solvers.problem import Problem

__all__ = ["ObsPath", "obs_path"]

Float = NDArray[np.float64]

_BLOCK = 32
_SHRINK = 0.85
_BATCH_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class ObsPath:
    """Order in which the weights of every row go.

    Attributes:
        order: (G, O, K) column (or block of columns) removed at each step.
        loss: (G, O, K) increase of the row's squared error at each step.
        pattern: unstructured, N:M, or blocks of one row.
        columns: number of columns I.
    """

    order: NDArray[np.int64]
    loss: Float
    pattern: Pattern
    columns: int

    def mask(self, sparsity: float) -> NDArray[np.bool_]:
        """Kept weights (G, O, I) at a sparsity of the whole layer, a prefix of every row's path.

        Rows are merged by the largest loss so far, so any budget takes a prefix of every row's path.
        """
        groups, rows, steps = self.order.shape
        width = self.pattern.columns if self.pattern.kind == "block" else 1
        count = -(-self.columns // width)
        keep = np.ones((groups, rows, count), bool)
        size = groups * rows * self.columns
        if self.pattern.kind == "nm":
            taken = np.full((groups, rows), steps if sparsity > 0 else 0)
        else:
            key = np.maximum.accumulate(self.loss, axis=2).ravel()
            ranked = np.argsort(key, kind="stable")
            widths = np.minimum(width, self.columns - width * self.order).ravel()
            removed = np.concatenate([[0], np.cumsum(widths[ranked])])
            best = int(np.searchsorted(removed, round(sparsity * size)))
            taken = np.bincount(ranked[:best] // steps, minlength=groups * rows).reshape(groups, rows)
        gone = np.arange(steps) < taken[..., None]
        g, o, _ = np.nonzero(gone)
        keep[g, o, self.order[gone]] = False
        return np.repeat(keep, width, axis=2)[:, :, : self.columns]


class _Rows:
    """Rows (B, I) on their way down, each at the optimum of what it has left.

    Downdates are pending, as rows of one array, until they fill it; then they go into P with one product for
    each row, and columns that are gone are dropped.

    Args:
        inverse: (G, I, I) of each group.
        which: (B,) group of each row.
        w: (B, I) the optimum of all weights.
        run, allowed: every run of ``run`` columns may lose ``allowed`` weights.
        steps: that will be taken.
    """

    def __init__(
        self, inverse: Float, which: NDArray[np.int64], w: Float, run: int, allowed: int, steps: int
    ) -> None:
        batch, columns = w.shape
        self._inverse, self._which, self._w = inverse, which, w.copy()
        self._run, self._allowed, self._left = run, allowed, steps
        self._at = np.arange(batch)
        self._label = np.broadcast_to(np.arange(columns), w.shape).copy()
        self._lost = np.zeros((batch, -(-columns // run)), np.int64)
        self._lost[:, -1] = -columns % run
        self._open = (self._lost < allowed)[:, np.arange(columns) // run]
        self._alive = np.ones(w.shape, bool)
        self._diagonal = np.einsum("gii->gi", inverse)[which].copy()
        self._floor = 1e-12 * self._diagonal
        self._p: Float | None = None  # before the first flush: the inverse itself
        self._pending = np.empty((batch, min(_BLOCK, steps), columns))
        self._used = 0
        self._score = np.empty_like(self._w)

    def step(self) -> tuple[NDArray[np.int64], Float]:
        """Remove the cheapest weight of each row: its column in the layer, and what it cost, both (B,)."""
        at, score = self._at, self._score
        np.maximum(self._diagonal, self._floor, out=self._diagonal)
        np.divide(self._w * self._w, self._diagonal, out=score)
        score[~self._open] = np.inf
        q = score.argmin(axis=1)
        removed, loss = self._label[at, q], score[at, q]
        root = np.sqrt(self._diagonal[at, q])
        column = self._column(q) / root[:, None]
        column[at, q] = root
        self._pending[:, self._used] = column
        self._used += 1
        self._w -= (self._w[at, q] / root)[:, None] * column
        self._diagonal -= column * column
        self._alive[at, q] = self._open[at, q] = False
        self._w[at, q], self._diagonal[at, q], self._floor[at, q] = 0.0, 1.0, 1.0
        if self._allowed < self._run:
            self._close(removed // self._run)
        self._left -= 1
        if self._used == self._pending.shape[1] and self._left:
            self._flush()
        return removed, loss

    def _column(self, q: NDArray[np.int64]) -> Float:
        """Column ``q`` of P in each row, pending downdates included."""
        at = self._at
        column = self._inverse[self._which, q] if self._p is None else self._p[at, q]
        if self._used:
            past = self._pending[:, : self._used]
            column = column - (past[at, :, q][:, None, :] @ past)[:, 0]
        return np.asarray(column * self._alive)

    def _close(self, runs: NDArray[np.int64]) -> None:
        """Count a loss of each row in ``runs``; runs that are full lose no more."""
        self._lost[self._at, runs] += 1
        full = self._lost[self._at, runs] >= self._allowed
        self._open &= ~(full[:, None] & (self._label // self._run == runs[:, None]))

    def _flush(self) -> None:
        past, (batch, width) = self._pending[:, : self._used], self._w.shape
        p = self._inverse[self._which] if self._p is None else self._p
        left = int(self._alive[0].sum())
        if left < _SHRINK * width:
            keep = np.nonzero(self._alive)[1].reshape(batch, left)
            p = np.stack([p[i].take(k, axis=0).take(k, axis=1) for i, k in enumerate(keep)])
            past = np.take_along_axis(past, keep[:, None, :], axis=2)
            self._label, self._open, self._alive = (
                np.take_along_axis(array, keep, axis=1) for array in (self._label, self._open, self._alive)
            )
            self._w, self._diagonal, self._floor = (
                np.take_along_axis(array, keep, axis=1) for array in (self._w, self._diagonal, self._floor)
            )
            self._score = np.empty_like(self._w)
        for matrix, rank in zip(p, past, strict=True):
            blas.dgemm(-1.0, rank.T, rank.T, 1.0, matrix.T, trans_b=1, overwrite_c=1)
        self._p = p
        self._pending = np.empty((batch, min(_BLOCK, self._left), self._w.shape[1]))
        self._used = 0


def _paths(
    inverse: Float, which: NDArray[np.int64], w: Float, run: int, allowed: int, steps: int
) -> tuple[NDArray[np.int64], Float]:
    """Greedy removal of single weights; arguments as for :class:`_Rows`."""
    rows = _Rows(inverse, which, w, run, allowed, steps)
    order, loss = np.empty((len(w), steps), np.int64), np.empty((len(w), steps))
    for step in range(steps):
        order[:, step], loss[:, step] = rows.step()
    return order, loss


def _block_paths(
    inverse: Float, which: NDArray[np.int64], w: Float, width: int
) -> tuple[NDArray[np.int64], Float]:
    """Greedy removal of runs of ``width`` columns: loss ``w_R^T (P_RR)^-1 w_R``."""
    batch, columns = w.shape
    count = -(-columns // width)
    extra = count * width - columns
    p = np.zeros((batch, columns + extra, columns + extra))
    p[:, :columns, :columns] = inverse[which]
    spare = np.arange(columns, columns + extra)
    p[:, spare, spare] = 1.0
    w = np.pad(w, ((0, 0), (0, extra)))
    at = np.arange(batch)
    order, loss = np.empty((batch, count), np.int64), np.empty((batch, count))
    alive = np.ones((batch, count), bool)
    index = np.arange(count * width).reshape(count, width)
    for step in range(count):
        blocks = p[:, index[:, :, None], index[:, None, :]]
        v = w[:, index]
        blocks[~alive] = np.eye(width)
        score = (v * np.linalg.solve(blocks, v[..., None])[..., 0]).sum(axis=2)
        sizes = np.minimum(width, columns - width * np.arange(count))
        score = np.where(alive, np.maximum(score, 0.0) / sizes, np.inf)
        q = score.argmin(axis=1)
        order[:, step], loss[:, step] = q, score[at, q]
        rows = p[at[:, None], index[q]]
        gain = np.linalg.solve(blocks[at, q], rows)
        w -= (w[at[:, None], index[q]][:, None, :] @ gain)[:, 0]
        p -= rows.swapaxes(1, 2) @ gain
        alive[at, q] = False
        w[at[:, None], index[q]] = 0.0
    return order, loss


def obs_path(problem: Problem, pattern: Pattern = UNSTRUCTURED) -> ObsPath:
    """Exact greedy removal order of every row, from the optimum down.

    Args:
        problem: the layer.
        pattern: unstructured, N:M or 1xC. Block losses are per weight, so that blocks at the border compare.

    Raises:
        OptionError: blocks of more than one row.
    """
    groups, rows, columns = problem.w.shape
    if pattern.kind == "block" and pattern.rows > 1:
        raise OptionError(f"obs removes blocks of one row, not {pattern}; use admm")
    run, allowed, steps = columns, columns, columns
    if pattern.kind == "nm":
        run, allowed = pattern.columns, pattern.columns - pattern.rows
        steps = sum(max(0, min(run, columns - first) - pattern.rows) for first in range(0, columns, run))
    w = problem.start.reshape(-1, columns)
    which = np.repeat(np.arange(groups), rows)
    batch = max(1, _BATCH_ELEMENTS // columns**2)
    parts = []
    for first in range(0, len(w), batch):
        part = slice(first, first + batch)
        if pattern.kind == "block":
            parts.append(_block_paths(problem.inverse, which[part], w[part], pattern.columns))
        else:
            parts.append(_paths(problem.inverse, which[part], w[part], run, allowed, steps))
    order = np.concatenate([order for order, _ in parts]).reshape(groups, rows, -1)
    loss = np.concatenate([loss for _, loss in parts]).reshape(groups, rows, -1)
    return ObsPath(order, loss, pattern, columns)
