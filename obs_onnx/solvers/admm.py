"""ADMM for pruning with compensation (ALPS: Meng et al. 2024), over whole layers at once.

Minimises ``tr (W - W*) A (W - W*)^T`` with W = D and D on the pattern. With inputs scaled to diag(A) = 1:

    W = (A + rho I)^-1 (B - V + rho D),   D = projection of W + V / rho,   V = V + rho (W - D).

The penalty rho grows over a few distinct values, with one inverse for each, shared by all rows and
sparsities; so an iteration is a single matrix product. A slow growth of rho anneals: given a few dozen
iterations the support found is better than that of the greedy surgeon. Iterations run in float32; the
weights come from the exact refit on the support.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from obs_onnx.solvers.patterns import UNSTRUCTURED, Pattern, project
from obs_onnx.solvers.problem import Problem, inverse_of

__all__ = ["EFFORTS", "admm_levels"]

EFFORTS: dict[str, tuple[tuple[float, ...], int]] = {
    "brief": ((0.04, 0.12, 0.36, 1.08), 3),
    "quick": ((0.04, 0.12, 0.36, 1.08), 6),
    "normal": ((0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28), 12),
    "thorough": ((0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28), 48),
}
_STABLE = 3


def admm_levels(
    problem: Problem,
    sparsities: Sequence[float],
    pattern: Pattern = UNSTRUCTURED,
    penalties: Sequence[float] = EFFORTS["normal"][0],
    iterations: int = EFFORTS["normal"][1],
) -> Iterator[NDArray[np.bool_]]:
    """Supports at several sparsities of the whole layer.

    Args:
        problem: the layer.
        sparsities: shares of weights to remove, each over all groups and rows together.
        pattern: any.
        penalties: growing values of rho, relative to a unit diagonal.
        iterations: steps per penalty; a level ends early once its support stays the same.

    Yields:
        One mask (G, O, I) per sparsity, in order.
    """
    scale = np.sqrt(np.einsum("gii->gi", problem.a))
    a = problem.a / scale[:, :, None]
    a /= scale[:, None, :]
    best = problem.start * scale[:, None, :]
    b = (best @ a).astype(np.float32)
    best = best.astype(np.float32)
    diagonal = np.einsum("gii->gi", a)
    inverses = []
    for rho in penalties:
        if ("admm", rho) not in problem.shared:
            diagonal[...] = 1.0 + rho
            problem.shared["admm", rho] = inverse_of(a.astype(np.float32))
        inverses.append(problem.shared["admm", rho])
    del a, diagonal
    for sparsity in sparsities:
        mask = project(best * best, sparsity, pattern)
        if mask.all():
            yield mask
            continue
        d, v = best * mask, np.zeros_like(best)
        stable = 0
        for rho, inverse in zip(np.asarray(penalties, np.float32), inverses, strict=True):
            for _ in range(iterations):
                w = (b - v + rho * d) @ inverse
                z = w + v / rho
                previous, mask = mask, project(z * z, sparsity, pattern)
                d = z * mask
                v += rho * (w - d)
                stable = stable + 1 if np.array_equal(mask, previous) else 0
                if stable >= _STABLE:
                    break
        yield mask
