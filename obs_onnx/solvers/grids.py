"""Grids of integers: a weight is ``scale (q - zero)``, with q between the lowest and the highest integer.

A scale and a zero point hold for the whole tensor, for each output, or for each block of inputs of an output.
Scales are first chosen by a search: of the one that reaches the largest weight and of smaller ones, which cut
it off, the one with the least sum of squares ``sum_i m_i (w_i - w'_i)^2`` of nearest rounding (as in Nagel et
al. 2021, section 3.1, weighted by ``m``). Given the integers, the best scales of the layer's own error follow
from least squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from obs_onnx.passes.errors import OptionError

__all__ = ["Grid", "GridKind", "choose_grid"]

Float = NDArray[np.float64]
Integer = NDArray[np.int64]

_SHRINK = np.linspace(1.0, 0.4, 25)  # of the range that holds all weights
_ELEMENTS = 1 << 22  # of weights, for which scales are searched at a time


@dataclass(frozen=True)
class GridKind:
    """Which grids there are to choose from.

    Attributes:
        lowest, highest: integers.
        zero: the zero point; None: each scale has one of its own, between the lowest and the highest integer.
        block: inputs that share a scale; None: all of them.
        shared: one scale for the whole tensor, where no blocks are asked for.
    """

    lowest: int = -127
    highest: int = 127
    zero: int | None = 0
    block: int | None = None
    shared: bool = False

    def __post_init__(self) -> None:
        inside = self.zero is None or self.lowest <= self.zero <= self.highest
        if not self.lowest < self.highest or not inside:
            raise OptionError(f"integers from {self.lowest} to {self.highest} with the zero {self.zero}")
        if self.block is not None and self.block < 1:
            raise OptionError(f"blocks of {self.block} inputs")

    @property
    def bits(self) -> int:
        """Of an integer."""
        return (self.highest - self.lowest).bit_length()


@dataclass(frozen=True)
class Grid:
    """Where the weights of a layer may lie.

    Attributes:
        scale: (G or 1, O or 1, B) not 0, for each block of inputs; an axis of 1 is shared by all.
        zero: likewise, the integers that stand for 0.
        lowest, highest: integers.
        block: inputs of a block, of which the last may have fewer.
    """

    scale: Float
    zero: Integer
    lowest: int
    highest: int
    block: int

    def spread(self, columns: int) -> tuple[Float, Integer]:
        """Scale and zero point of each input, (G or 1, O or 1, I)."""
        if self.scale.shape[2] == 1:
            shape = (*self.scale.shape[:2], columns)
            return np.broadcast_to(self.scale, shape), np.broadcast_to(self.zero, shape)
        scale, zero = np.repeat(self.scale, self.block, axis=2), np.repeat(self.zero, self.block, axis=2)
        return scale[:, :, :columns], zero[:, :, :columns]

    def values(self, q: Integer) -> Float:
        """Weights (G, O, I) that integers stand for."""
        scale, zero = self.spread(q.shape[2])
        return np.asarray((q - zero) * scale)

    def nearest(self, w: Float) -> Integer:
        """Integers (G, O, I) whose weights are nearest."""
        scale, zero = self.spread(w.shape[2])
        q = np.rint(w / scale) + zero
        return np.asarray(np.clip(q, self.lowest, self.highest).astype(np.int64))


def choose_grid(w: Float, kind: GridKind, weight: Float | None = None) -> Grid:
    """Scales and zero points by a search over the range.

    Args:
        w: (G, O, I) weights.
        kind: of the grid.
        weight: (G, I) what a squared difference counts at each input; None: all alike.
    """
    groups, rows, columns = w.shape
    block = columns if kind.block is None else min(kind.block, columns)
    m = np.ones((groups, columns)) if weight is None else weight
    if kind.block is None and kind.shared:
        flat = np.broadcast_to(m[:, None, :], w.shape).reshape(1, 1, -1)
        scale, zero = _searched(w.reshape(1, 1, -1), flat, kind)
        return Grid(scale[..., None], zero[..., None], kind.lowest, kind.highest, columns)
    count = -(-columns // block)
    short = ((0, 0), (0, 0), (0, count * block - columns))
    blocks = np.pad(w, short).reshape(groups, rows, count, block)
    m = np.pad(m[:, None], short).reshape(groups, 1, count, block)
    scale, zero = np.empty((groups, rows, count)), np.empty((groups, rows, count), np.int64)
    step = max(1, _ELEMENTS // (groups * count * block))
    for first in range(0, rows, step):
        part = slice(first, first + step)
        scale[:, part], zero[:, part] = _searched(blocks[:, part], m, kind)
    return Grid(scale, zero, kind.lowest, kind.highest, block)


def _searched(w: Float, m: Float, kind: GridKind) -> tuple[Float, Integer]:
    """Best scale and zero point (...) of weights (..., I)."""
    low, high = np.minimum(w.min(axis=-1), 0.0), np.maximum(w.max(axis=-1), 0.0)
    best = np.full(low.shape, np.inf)
    scale, zero = np.ones(low.shape), np.zeros(low.shape, np.int64)
    for share in _SHRINK:
        for s, z in _candidates(share * low, share * high, kind):
            step = np.where(s == 0, 1.0, s)
            q = np.rint(w / step[..., None]) + z[..., None]
            wrong = (np.clip(q, kind.lowest, kind.highest) - z[..., None]) * step[..., None] - w
            error = (m * wrong * wrong).sum(axis=-1)
            better = error < best
            best, scale = np.where(better, error, best), np.where(better, step, scale)
            zero = np.where(better, z, zero)
    return scale, zero


def _candidates(low: Float, high: Float, kind: GridKind) -> list[tuple[Float, Integer]]:
    """Scales and zero points whose integers reach from ``low`` to ``high``."""
    if kind.zero is None:
        scale = (high - low) / (kind.highest - kind.lowest)
        zero = kind.lowest - np.rint(low / np.where(scale == 0, 1.0, scale))
        return [(scale, np.clip(zero, kind.lowest, kind.highest).astype(np.int64))]
    above, below = kind.highest - kind.zero, kind.zero - kind.lowest
    fixed = np.full(low.shape, kind.zero, np.int64)
    scale = np.maximum(high / above if above else 0.0, -low / below if below else 0.0)
    if above == below or not (above and below):
        return [(scale, fixed)]
    longer = np.maximum(high, -low) / max(above, below)
    return [(scale, fixed), (longer, fixed)]
