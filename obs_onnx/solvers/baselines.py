"""Supports that ignore the data: by magnitude, and at random."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from obs_onnx.solvers.patterns import UNSTRUCTURED, Pattern, project

__all__ = ["magnitude_mask", "random_mask"]


def magnitude_mask(
    w_GOI: NDArray[np.floating], sparsity: float, pattern: Pattern = UNSTRUCTURED
) -> NDArray[np.bool_]:
    """Keep the largest weights of the layer (blocks and runs: the largest sums of squares)."""
    return project(np.square(w_GOI, dtype=np.float64), sparsity, pattern)


def random_mask(
    shape: tuple[int, int, int], sparsity: float, pattern: Pattern = UNSTRUCTURED, seed: int = 0
) -> NDArray[np.bool_]:
    """Keep weights (G, O, I) at random; supports of growing sparsity are nested for one seed."""
    return project(np.random.default_rng(seed).random(shape), sparsity, pattern)
