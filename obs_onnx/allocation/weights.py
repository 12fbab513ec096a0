"""How many weights every layer keeps: the lower convex hulls of damage curves, filled by slope."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from obs_onnx.allocation.curves import GRID, Curve, lower_hull

__all__ = ["allocate"]


def _hull(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(weights removed, damage) at the corners of the lower convex hull, up to all but one weight."""
    most = 1 - 1 / curve.size
    grid = np.unique(np.concatenate([[0.0], 1 - np.geomspace(1.0, 1 - most, GRID), curve.sparsities]))
    grid = grid[grid <= most + 1e-12]
    x, y = grid * curve.size, curve.damage(grid)
    corners = lower_hull(x, y)
    return x[corners], y[corners]


def allocate(curves: Mapping[str, Curve], budget: int) -> dict[str, int]:
    """Weights to remove per layer, so that the summed damage is least.

    Args:
        curves: of every layer that may lose weights.
        budget: weights to remove from all of them together.

    Returns:
        For each layer the number of weights to set to zero; they sum up to ``budget``, or to all but one
        weight of each layer if that is less.
    """
    removed = dict.fromkeys(curves, 0.0)
    hulls = {name: _hull(curve) for name, curve in curves.items()}
    left = float(budget)
    queue: list[tuple[float, str, int]] = []

    def push(name: str, segment: int) -> None:
        x, y = hulls[name]
        if segment + 1 < len(x):
            slope = (y[segment + 1] - y[segment]) / (x[segment + 1] - x[segment])
            heapq.heappush(queue, (float(slope), name, segment))

    for name in hulls:
        push(name, 0)
    while queue and left > 0:
        _, name, segment = heapq.heappop(queue)
        x, _ = hulls[name]
        step = min(float(x[segment + 1] - x[segment]), left)
        removed[name] += step
        left -= step
        push(name, segment + 1)
    counts = {name: math.floor(value) for name, value in removed.items()}
    missing = round(sum(removed.values())) - sum(counts.values())
    for name in sorted(hulls, key=lambda n: counts[n] - removed[n])[: max(missing, 0)]:
        counts[name] += 1
    return counts
