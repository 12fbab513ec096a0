"""How much of each layer to remove, so that the output suffers least.

Each layer has a curve: damage to the output against the layer's sparsity, measured at a few levels with
every other layer dense. Damages of different layers nearly add up, so the best shares for a budget are
found on the lower convex hulls of all curves: always take next the segment that costs least damage
per weight removed, until the budget is filled exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Curve", "Ranked", "lower_hull", "measure_curve", "sparsity_levels"]

GRID = 64


@dataclass(frozen=True)
class Curve:
    """Measured damage of one layer.

    Attributes:
        size: number of weights of the layer.
        sparsities: rising, each in (0, 1).
        damages: at those levels, non-negative.
        errors: the layer's own relative output error at those levels, as predicted by the solver.
        gone: damage when nothing is left, where that is possible.
    """

    size: int
    sparsities: tuple[float, ...]
    damages: tuple[float, ...]
    errors: tuple[float, ...]
    gone: float | None = field(default=None, kw_only=True)

    def damage(self, sparsity: NDArray[np.float64]) -> NDArray[np.float64]:
        """Damage at any sparsity, never falling.

        Nothing is free but what was measured to be: damage is 0 up to the last level without any. From there
        to the next one it grows with the square of the way; between levels log damage is linear in the log of
        the kept share, and beyond the last one the last slope continues.
        """
        rising, sparsity = np.maximum.accumulate(self.damages), np.asarray(sparsity, np.float64)
        nothing = int((rising <= 0).sum())
        edge = self.sparsities[nothing - 1] if nothing else 0.0
        if nothing == len(rising):
            return np.zeros_like(sparsity) if self.gone is None else np.where(sparsity >= 1, self.gone, 0.0)
        levels = self.sparsities[nothing:]
        kept, logs = np.log1p(-np.asarray(levels)), np.log(rising[nothing:])
        with np.errstate(divide="ignore"):
            at = np.log1p(-np.minimum(sparsity, 1 - 1e-12))
        inside = np.interp(-at, -kept, logs)
        if len(kept) > 1:
            slope = max((logs[-1] - logs[-2]) / (kept[-2] - kept[-1]), 0.0)
            inside = np.where(at < kept[-1], logs[-1] + slope * (kept[-1] - at), inside)
        below = np.exp(logs[0]) * (np.maximum(sparsity - edge, 0) / (levels[0] - edge)) ** 2
        damage = np.where(sparsity < levels[0], below, np.exp(inside))
        if self.gone is not None:
            damage = np.where(sparsity >= 1, self.gone, np.minimum(damage, self.gone))
        return np.asarray(damage)


def sparsity_levels(target: float, count: int) -> tuple[float, ...]:
    """Levels around a wanted overall sparsity, evenly spaced in the logarithm of the kept share.

    Args:
        target: wanted sparsity of the model, in (0, 1).
        count: number of levels, at least 2.
    """
    kept = 1 - target
    return tuple(1 - np.geomspace(min(0.7, max(3.5 * kept, 0.5)), max(kept / 7, 1e-4), count))


def measure_curve(
    size: int,
    levels: Sequence[float],
    refinements: int,
    measure: Callable[[Sequence[float]], Sequence[tuple[float, float]]],
) -> Curve:
    """Measure a curve, then add levels where it bends most.

    Args:
        size: number of weights.
        levels: first sparsities to measure, rising.
        refinements: how many further levels may be added, one by one.
        measure: for sparsities, (damage, predicted layer error) of each.
    """
    points = dict(zip(levels, measure(levels), strict=True))
    for _ in range(refinements):
        s = np.array(sorted(points))
        if len(s) < 3:
            break
        x = np.log1p(-s)
        y = np.log([max(points[v][0], 1e-12) for v in s])
        slopes = np.diff(y) / np.diff(x)
        bends = np.abs(np.diff(slopes))
        room = np.abs(np.diff(x))
        gain = np.array(
            [room[i] * max(bends[max(i - 1, 0)], bends[min(i, len(bends) - 1)]) for i in range(len(room))]
        )
        gain[np.exp(x[:-1]) * size < 4] = 0
        widest = int(np.argmax(gain))
        if gain[widest] < 0.35:
            break
        level = float(1 - math.exp((x[widest] + x[widest + 1]) / 2))
        points[level] = measure([level])[0]
    ordered = sorted(points)
    return Curve(
        size, tuple(ordered), tuple(points[s][0] for s in ordered), tuple(points[s][1] for s in ordered)
    )


def lower_hull(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[int]:
    """Places of the corners of the lower convex hull of a function, ``x`` rising."""
    corners: list[int] = []
    for i in range(len(x)):
        while len(corners) > 1:
            a, b = corners[-2], corners[-1]
            if (y[b] - y[a]) * (x[i] - x[a]) < (y[i] - y[a]) * (x[b] - x[a]):
                break
            corners.pop()
        corners.append(i)
    return corners


Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Ranked:
    """A group's channels in order of removal, and what removing so many of them costs.

    Attributes:
        order: (n,) channels, the first to go first.
        curve: damage against the share removed.
    """

    order: NDArray[np.int64]
    curve: Curve

    def keep(self, count: int) -> Mask:
        """Mask of the channels that stay when ``count`` do."""
        mask = np.zeros(len(self.order), bool)
        mask[self.order[len(self.order) - count :]] = True
        return mask
