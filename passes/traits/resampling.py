"""How Resize and Upsample read one axis: a matrix with a row for each new place, and its spectral norm.

An image is resampled axis by axis, so the norm of the whole is the product of those of its axes. Where the
same attributes leave open how a runtime rounds (a scale or the ratio of the lengths, ties of single
precision), the largest norm counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Resampling"]

_EXACT_LENGTH = 512  # longer axes are bounded by the sums of rows and columns
_SINGLE = 4e-6  # how far a place is off in single precision, relative to one more than itself
_SLACK = 1e-4  # the same for norms of what depends continuously on places

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Resampling:
    """Attributes of Resize, under the names that ONNX has for them.

    Attributes:
        mode: nearest, linear or cubic.
        coordinates: coordinate_transformation_mode.
        nearest: nearest_mode, or ``any`` for whatever a runtime may do.
        cubic: cubic_coeff_a.
        exclude_outside: cubic only: places outside weigh nothing, the others more.
    """

    mode: str
    coordinates: str
    nearest: str
    cubic: float = -0.75
    exclude_outside: bool = False

    def norm(self, before: int, after: int, scale: float | None) -> float | None:
        """Spectral norm along an axis of ``before`` places that becomes ``after``; None for unknown modes.

        ``scale`` is the one that was asked for; None where the lengths were.
        """
        found = [self._norm(before, places) for places in self._places(before, after, scale)]
        norms = [norm for norm in found if norm is not None]
        return max(norms) if norms and len(norms) == len(found) else None

    def _norm(self, before: int, places: Array) -> float | None:
        if self.mode == "nearest":
            return self._most_often(before, places)
        if self.mode not in ("linear", "cubic"):
            return None
        taken, weights = (
            self._linear(before, places) if self.mode == "linear" else self._cubic(before, places)
        )
        matrix = np.zeros((len(places), before))
        np.add.at(matrix, (np.arange(len(places))[:, None], taken), weights)
        if max(matrix.shape) <= _EXACT_LENGTH:
            return float(np.linalg.norm(matrix, 2)) * (1 + _SLACK)
        sums = (float(np.abs(matrix).sum(axis).max()) for axis in (0, 1))
        return math.sqrt(math.prod(sums)) * (1 + _SLACK)

    def _places(self, before: int, after: int, scale: float | None) -> Iterator[Array]:
        """Where the new places lie among the old ones, for each way in which runtimes read the attributes."""
        i, s = np.arange(after, dtype=np.float64), after / before if scale is None else scale
        half = (i + 0.5) / s - 0.5
        if self.coordinates == "half_pixel":
            yield half
        elif self.coordinates == "pytorch_half_pixel":
            yield half
            if after == 1:
                yield from (np.zeros(1), np.full(1, -0.5))
        elif self.coordinates == "half_pixel_symmetric":
            yield half + before / 2 * (1 - after / (s * before))
        elif self.coordinates == "asymmetric":
            yield i / s
        elif self.coordinates == "tf_half_pixel_for_nn":
            yield (i + 0.5) / s
        elif self.coordinates == "align_corners":
            for last in {after - 1.0, s * before - 1.0}:
                yield i * ((before - 1) / last) if after > 1 and last > 0 else np.zeros(after)

    def _most_often(self, before: int, places: Array) -> float | None:
        """sqrt of how often the most frequent place may be taken."""
        near = _SINGLE * (1 + np.abs(places))
        picked = [
            np.clip(pick(places + shift), 0, before - 1)
            for shift in (-near, near)
            for name, pick in _PICKS.items()
            if self.nearest in (name, "any")
        ]
        if not picked:
            return None
        taken = np.unique(
            np.stack([np.tile(np.arange(len(places)), len(picked)), np.concatenate(picked)]), axis=1
        )
        return math.sqrt(np.unique(taken[1], return_counts=True)[1].max(initial=0))

    def _linear(self, before: int, places: Array) -> tuple[NDArray[np.int64], Array]:
        """Two neighbours; outside, the place at the border."""
        inside = np.clip(places, 0, before - 1)
        low = np.floor(inside)
        share = inside - low
        taken = np.minimum(np.stack([low, low + 1], axis=1), before - 1)
        return taken.astype(np.int64), np.stack([1 - share, share], axis=1)

    def _cubic(self, before: int, places: Array) -> tuple[NDArray[np.int64], Array]:
        """Four neighbours (Keys, Cubic Convolution Interpolation for Digital Image Processing, 1981)."""
        taken = np.floor(places)[:, None] + np.arange(-1, 3)
        t, a = np.abs(places[:, None] - taken), self.cubic
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        far = ((t - 5) * t + 8) * t * a - 4 * a
        weights = np.where(t <= 1, near, far)
        if self.exclude_outside:
            weights = np.where((taken >= 0) & (taken < before), weights, 0)
            weights = weights / weights.sum(1, keepdims=True)
        return np.clip(taken, 0, before - 1).astype(np.int64), weights


_PICKS: Mapping[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
