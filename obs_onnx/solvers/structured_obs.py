"""Greedy structured Optimal Brain Surgeon: whole channels, over all layers that consume them.

Removing a channel takes a set S of input columns from each consumer. With ``P = A^-1`` over the columns that
are left and ``W_S`` the current weights of the columns that go, the squared error of the consumer, row o
weighted by ``d_o``, grows by

    tr(D W_S^T (P_SS)^-1 W_S)                                                                           (1)

if the weights that stay are moved to their new optimum,

    W  <-  W - P_:S (P_SS)^-1 W_S,        P  <-  P - P_:S (P_SS)^-1 P_S:                                (2)

which is eq. 5 of Dong et al. 2017 (twice: the error there has a factor 1/2) and eq. 5 of Hassibi & Stork 1993
for sets of weights. Step (2) eliminates S from ``P``: with ``L L^T = P_SS``, ``U = L^-1 P_S:`` and
``Z = L^-1 W_S``, the loss is ``|Z|^2`` and the updates are ``W -= U^T Z``, ``P -= U^T U``. So the whole order
is one Cholesky factorisation of A^-1 by blocks, pivoted by loss: the factors U are kept, W and the diagonal
blocks of P follow at once, and the rest of P when so many columns are gone that it pays to drop them.

Only columns of channels that may go take part. Losses depend on W through ``W D W^T`` alone, so a triangular
root replaces W where it has more rows than columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas
from scipy.sparse import csr_array

from obs_onnx.passes.errors import DataError
from obs_onnx.solvers.blas_threads import threads_for
from obs_onnx.solvers.least_squares import refit
from obs_onnx.solvers.problem import Problem

__all__ = ["Consumer", "Order", "greedy_order", "refit_columns"]

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Mask = NDArray[np.bool_]

_PARTS = 64
_FLUSH_SHARE = 0.3
_FLUSH_COLUMNS = 64
_FLOOR = 1e-12
_DENSE_COLUMNS = 48


@dataclass(frozen=True)
class Consumer:
    """A layer that reads the channels.

    Attributes:
        problem: the layer; its optimum is where removal starts.
        columns: (channels, G*I) bool; the columns ``g * I + i`` that go with each channel, none twice.
        row_weights: (G*O,) non-negative weights d of the squared errors of the outputs; None: all one.
    """

    problem: Problem
    columns: csr_array
    row_weights: Float | None = None


@dataclass(frozen=True)
class Order:
    """Channels in order of removal.

    Attributes:
        order: (n,) channels; those that are fixed come last.
        losses: (n,) increase of the weighted squared error of all consumers, with the first 1, 2, ... n
            channels removed and everything else refitted; non-decreasing, infinite for fixed channels.
    """

    order: Int
    losses: Float


def _cholesky(p: Float, floor: Float) -> Float:
    """Lower factors of symmetric matrices (..., k, k), the nearest definite ones where they are not.

    ``floor`` (..., k) are the smallest diagonals believed.
    """
    diagonal = np.einsum("...kk->...k", p)
    np.maximum(diagonal, floor, out=diagonal)
    try:
        return np.asarray(np.linalg.cholesky(p))
    except np.linalg.LinAlgError:
        scale = np.sqrt(diagonal)
        outer = scale[..., :, None] * scale[..., None, :]
        value, vector = np.linalg.eigh(p / outer)
        value = np.maximum(value, _FLOOR * p.shape[-1])
        p[...] = (vector * value[..., None, :]) @ vector.swapaxes(-1, -2) * outer
        diagonal *= 1 + 10 * _FLOOR * p.shape[-1]
        return np.asarray(np.linalg.cholesky(p))


def _set_losses(p: Float, gram: Float, floor: Float) -> Float:
    """Losses (m,) of sets of k columns: (1) from ``P_SS`` (m, k, k) and ``W_S D W_S^T`` (m, k, k)."""
    if p.shape[1] == 1:
        return np.asarray(gram[:, 0, 0] / np.maximum(p[:, 0, 0], floor[:, 0]))
    _cholesky(p, floor)
    return np.asarray(np.maximum(np.einsum("mkk->m", np.linalg.solve(p, gram)), 0.0))


def _half_solve(lower_KK: Float, right_KN: Float) -> Float:
    """``L^-1 R``, in place where R is contiguous."""
    return np.asarray(blas.dtrsm(1.0, lower_KK.T, right_KN.T, side=1, overwrite_b=1).T)


class _Block:
    """Columns of one group of one consumer, sorted by channel, channels sorted by their number of columns.

    ``p[at][:, at] - pending^T pending`` is P, ``w`` (I, O) the weights, with zeros for columns that are gone.
    """

    def __init__(self, channel: Int, sizes: Int, p: Float, at: Int, w: Float, floor: Float) -> None:
        self.channel, self.sizes, self.p, self.at, self.w, self.floor = channel, sizes, p, at, w, floor
        self.owner = np.repeat(np.arange(len(sizes)), sizes)
        self.alive = np.ones(len(sizes), bool)
        self.room = max(_FLUSH_COLUMNS, int(_FLUSH_SHARE * len(at)))
        self.pending = np.empty((0, len(at)))
        self.used = 0
        self.runs: list[tuple[slice, slice, int]] = []
        self.diagonal: list[Float] = []
        first, column = 0, 0
        for size, count in zip(*(x.tolist() for x in np.unique(sizes, return_counts=True)), strict=True):
            end = column + size * count
            self.runs.append((slice(first, first + count), slice(column, end), size))
            index = at[column:end].reshape(count, size)
            self.diagonal.append(p[index[:, :, None], index[:, None, :]])
            first, column = first + count, end
        self._losses: Float | None = None

    @property
    def losses(self) -> Float:
        """(m,) loss of every channel here; 0 for those that are gone."""
        if self._losses is None:
            self._losses = np.empty(len(self.channel))
            for (channels, columns, size), p in zip(self.runs, self.diagonal, strict=True):
                w = self.w[columns].reshape(-1, size, self.w.shape[1])
                floor = self.floor[columns].reshape(-1, size)
                self._losses[channels] = _set_losses(p, w @ w.swapaxes(1, 2), floor)
        return self._losses

    def part(self, chosen: Mask) -> _Block:
        """The ``chosen`` (m,) channels alone, with P brought up to date."""
        columns = np.flatnonzero(chosen[self.owner])
        at = self.at[columns]
        p = self.p.take(at, axis=0).take(at, axis=1)
        if self.used:
            u = self.pending[: self.used].take(columns, axis=1)
            p = blas.dgemm(-1.0, u.T, u.T, 1.0, p.T, trans_b=1, overwrite_c=1).T
        at = np.arange(len(columns))
        return _Block(self.channel[chosen], self.sizes[chosen], p, at, self.w[columns], self.floor[columns])

    def remove(self, gone: Mask) -> float:
        """Remove the ``gone`` (m,) channels, all at once; their loss."""
        s = np.flatnonzero(gone[self.owner])
        u = self.p.take(self.at[s], axis=0).take(self.at, axis=1)
        if self.used:
            u -= self.pending[: self.used, s].T @ self.pending[: self.used]
        lower = _cholesky(u[:, s], self.floor[s])
        self.alive &= ~gone
        u *= self.alive[self.owner]
        u, z = _half_solve(lower, u), _half_solve(lower, self.w[s])
        self.w = blas.dgemm(-1.0, z.T, u.T, 1.0, self.w.T, trans_b=1, overwrite_c=1).T
        self.w[s] = 0.0
        for (_, columns, size), p in zip(self.runs, self.diagonal, strict=True):
            part = u[:, columns].reshape(len(s), -1, size).transpose(1, 2, 0)
            p -= part @ part.swapaxes(1, 2)
        if self.used + len(s) > len(self.pending):
            grown = np.empty((max(self.room, self.used + len(s)), len(self.at)))
            grown[: self.used] = self.pending[: self.used]
            self.pending = grown
        self.pending[self.used : self.used + len(s)] = u
        self.used += len(s)
        self._losses = None
        return float((z * z).sum())


class _State:
    """All blocks of all consumers.

    ``lone_losses`` (n,) come from groups that only one channel reads: nothing else changes them.
    """

    def __init__(self, blocks: list[_Block], lone_losses: Float) -> None:
        self.blocks, self.lone_losses = blocks, lone_losses
        self._index()

    def _index(self) -> None:
        sizes = [len(block.channel) for block in self.blocks]
        self.block = np.repeat(np.arange(len(sizes)), sizes)
        self.channel = np.concatenate([np.empty(0, np.int64), *(block.channel for block in self.blocks)])

    def _hit(self, chosen: Mask) -> list[int]:
        hit: list[int] = np.unique(self.block[chosen[self.channel]]).tolist()
        return hit

    def losses(self) -> Float:
        """(n,) loss of every channel that is left, removed alone."""
        if not self.blocks:
            return self.lone_losses
        each = np.concatenate([block.losses for block in self.blocks])
        return self.lone_losses + np.bincount(self.channel, each, len(self.lone_losses))

    def part(self, chosen: Mask) -> _State:
        """The ``chosen`` (n,) channels alone."""
        blocks = (self.blocks[i] for i in self._hit(chosen))
        return _State([block.part(chosen[block.channel]) for block in blocks], self.lone_losses)

    def remove(self, chosen: Mask) -> float:
        """Remove the ``chosen`` (n,) channels, all at once; their loss."""
        loss = float(self.lone_losses[chosen].sum())
        dropped = False
        for i in self._hit(chosen):
            block = self.blocks[i]
            loss += block.remove(chosen[block.channel])
            if block.used >= block.room and block.alive.any():
                self.blocks[i] = block.part(block.alive)
                dropped = True
        if dropped:
            self._index()
        return loss


def _owners(consumer: Consumer, free: Mask) -> Int:
    """(G, I) channel of every column; -1 for columns without one, or whose channel is not ``free``."""
    groups, _, columns = consumer.problem.w.shape
    if consumer.columns.shape != (len(free), groups * columns):
        raise DataError(
            f"columns of shape {consumer.columns.shape} instead of {(len(free), groups * columns)}"
        )
    entries = consumer.columns.tocoo()
    channel, column = (np.asarray(index)[entries.data != 0] for index in (entries.row, entries.col))
    owner = np.full(groups * columns, -1)
    owner[column] = np.where(free[channel], channel, -1)
    if len(np.unique(column)) != len(column):
        raise DataError("a column belongs to more than one channel")
    return owner.reshape(groups, columns)


def _roots(consumer: Consumer) -> Float:
    """(G, O, 1) square roots of the row weights."""
    groups, rows, _ = consumer.problem.w.shape
    if consumer.row_weights is None:
        return np.ones((groups, rows, 1))
    weight = np.asarray(consumer.row_weights, np.float64)
    if weight.shape != (groups * rows,) or not (np.isfinite(weight) & (weight >= 0)).all():
        raise DataError(f"row weights must be {groups * rows} finite numbers that are not negative")
    return np.asarray(np.sqrt(weight).reshape(groups, rows, 1))


def _block(owner_I: Int, p_II: Float, w_OI: Float) -> _Block:
    """One group: columns without a channel left out, rows of the weight reduced to as many as columns."""
    at = np.flatnonzero(owner_I >= 0)
    sizes = np.bincount(owner_I[at])
    at = at[np.lexsort((owner_I[at], sizes[owner_I[at]]))]
    channel = owner_I[at]
    channel = channel[np.diff(channel, prepend=-1) != 0]
    w_OI = w_OI[:, at]
    if len(w_OI) > len(at):
        w_OI = np.asarray(np.linalg.qr(w_OI, mode="r"))
    return _Block(channel, sizes[channel], p_II, at, np.ascontiguousarray(w_OI.T), _FLOOR * p_II[at, at])


def _state(consumers: Iterable[Consumer], free: Mask) -> _State:
    """The dense layers, with the columns of ``free`` channels."""
    n = len(free)
    blocks: list[_Block] = []
    lone_losses = np.zeros(n)
    for consumer in consumers:
        with threads_for(consumer.problem.w.shape[2]):
            owner, root = _owners(consumer, free), _roots(consumer)
            inverse, start = consumer.problem.inverse, consumer.problem.start
            first, last = np.where(owner < 0, n, owner).min(axis=1), owner.max(axis=1)
            lone, taken = first == last, (owner >= 0).sum(axis=1)
            for size in np.unique(taken[lone]).tolist():
                g = np.flatnonzero(lone & (taken == size))
                at = np.nonzero(owner[g] >= 0)[1].reshape(-1, size)
                p = inverse[g[:, None, None], at[:, :, None], at[:, None, :]]
                w = np.take_along_axis(start[g] * root[g], at[:, None, :], axis=2)
                losses = _set_losses(p, w.swapaxes(1, 2) @ w, _FLOOR * np.einsum("gkk->gk", p))
                lone_losses += np.bincount(last[g], losses, n)
            blocks += [_block(owner[g], inverse[g], start[g] * root[g]) for g in np.flatnonzero(first < last)]
    return _State(blocks, lone_losses)


def _greedy(state: _State, alive: Mask, count: int, parts: int | None) -> tuple[list[int], list[float]]:
    """The first ``count`` channels to go, and the loss of each after the ones before."""
    alive = alive.copy()
    left = int(alive.sum())
    order: list[int] = []
    losses: list[float] = []
    while len(order) < count:
        total = np.where(alive, state.losses(), np.inf)
        step = min(left // parts if parts else 1, count - len(order))
        chosen = np.zeros(len(alive), bool)
        if step <= 1:
            chosen[total.argmin()] = True
            order.append(int(total.argmin()))
            losses.append(state.remove(chosen))
        else:
            chosen[np.argsort(total, kind="stable")[: min(2 * step, left)]] = True
            some, gains = _greedy(state.part(chosen), chosen, step, None)
            order += some
            losses += gains
            chosen[:] = False
            chosen[some] = True
            state.remove(chosen)
        left -= max(step, 1)
        alive &= ~chosen
    return order, losses


def greedy_order(
    consumers: Iterable[Consumer], n: int, fixed: Mask | None = None, parts: int | None = _PARTS
) -> Order:
    """Greedy order of removal: always the channel whose loss is smallest once all others are refitted.

    A loop of small products, for which one thread of linear algebra is faster than several; all of them
    factorise what is large.

    Args:
        consumers: layers that read the channels, one needed at a time; without any, channels go in their own
            order, for nothing.
        n: number of channels.
        fixed: (n,) channels that must stay.
        parts: of many channels left, one in so many goes per step: the exact greedy choice among the twice as
            many that are worth least, the others' losses being as before the step. None: one at a time.

    Raises:
        DataError: shapes that do not fit, a column of several channels, negative row weights.
    """
    free = np.ones(n, bool) if fixed is None else ~np.asarray(fixed, bool)
    if free.shape != (n,):
        raise DataError(f"{free.shape} fixed channels instead of {(n,)}")
    count = int(free.sum())
    state = _state(consumers, free)
    with threads_for(1):
        order, gains = _greedy(state, free, count, parts)
    losses = np.concatenate([np.cumsum(gains), np.full(n - count, np.inf)])
    return Order(np.concatenate([np.asarray(order, np.int64), np.flatnonzero(~free)]), losses)


def refit_columns(problem: Problem, kept: Mask) -> Float:
    """Least-squares weights on columns shared by all rows of a group.

    Args:
        problem: the layer.
        kept: (G*I,) columns that stay.

    Returns:
        (G, O, I) weights, zero elsewhere.
    """
    groups, _, columns = problem.w.shape
    keep = np.asarray(kept, bool).reshape(groups, columns)
    if columns > _DENSE_COLUMNS:
        return refit(problem, np.broadcast_to(keep[:, None], problem.w.shape))
    a = np.where(keep[:, :, None] & keep[:, None], problem.a, np.eye(columns))
    b = np.where(keep[:, None], problem.b, 0.0)
    return np.asarray(np.linalg.solve(a, b.swapaxes(1, 2)).swapaxes(1, 2))
