"""What removing channels costs once all layers behind them are refitted as well.

A curve of damage comes from models in which only the layers that read a group are refitted. In the smaller
model every later layer is refitted too, and mends much of what is left: the more layers follow, the more, so
that curves alone make early groups look too dear. At a few counts of each group the whole sequential refit is
therefore done, on few samples, and the curve is multiplied by the share of the damage that remains.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from obs_onnx.allocation.curves import Curve, Ranked

__all__ = ["SHARES", "mended"]

SHARES = (0.5, 0.8)  # of the channels removed
_LEAST = 1e-3  # share of the damage that may remain
_NOTHING = 1e-12

Mask = NDArray[np.bool_]


def mended(
    ranked: Mapping[int, Ranked],
    damage: Callable[[int, Mask], float],
    branches: Collection[int],
    advance: Callable[[int], None] = lambda _: None,
) -> dict[int, Ranked]:
    """Groups with curves of the damage that remains after the whole refit.

    Args:
        ranked: groups with curves of the damage behind a refit of the next layers alone.
        damage: group and mask of kept channels -> damage after the whole refit.
        branches: groups that may go altogether.
        advance: called with 1 after each group.
    """
    found = {}
    for group, one in ranked.items():
        n = one.curve.size
        removed = sorted({min(max(round(share * n), 1), n - 1) for share in SHARES})
        remaining = [_remaining(one.curve, count, damage(group, one.keep(n - count))) for count in removed]
        gone = damage(group, one.keep(0)) if group in branches else None
        shares = np.array(removed) / n
        logs = np.interp(one.curve.sparsities, shares, np.log(remaining))
        damages = np.maximum.accumulate(np.array(one.curve.damages) * np.exp(logs))
        curve = replace(one.curve, damages=tuple(damages.tolist()), gone=gone)
        found[group] = replace(one, curve=curve)
        advance(1)
    return found


def _remaining(curve: Curve, count: int, after: float) -> float:
    before = float(curve.damage(np.array([count / curve.size]))[0])
    return float(np.clip(after / max(before, _NOTHING), _LEAST, 1.0)) if before > _NOTHING else 1.0
