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
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from obs_onnx.solvers.blas_threads import row_threads
from obs_onnx.solvers.patterns import UNSTRUCTURED, Pattern, project
from obs_onnx.solvers.problem import Problem, inverse_of

__all__ = ["EFFORTS", "admm_levels"]

Float32 = NDArray[np.floating]

EFFORTS: dict[str, tuple[tuple[float, ...], int]] = {
    "brief": ((0.2, 0.6), 6),
    "quick": ((0.04, 0.12, 0.36, 1.08), 6),
    "normal": ((0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28), 12),
    "thorough": ((0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28), 48),
}
_STABLE = 3
_WIDE = 2048  # columns from which a matrix of them is not kept for what may come


def admm_levels(
    problem: Problem,
    sparsities: Sequence[float],
    pattern: Pattern = UNSTRUCTURED,
    penalties: Sequence[float] = EFFORTS["normal"][0],
    iterations: int = EFFORTS["normal"][1],
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.float64]]]:
    """Supports at several sparsities of the whole layer, and weights on them.

    Args:
        problem: the layer.
        sparsities: shares of weights to remove, each over all groups and rows together.
        pattern: any.
        penalties: growing values of rho, relative to a unit diagonal.
        iterations: steps per penalty; a level ends early once its support stays the same.

    Yields:
        One mask (G, O, I) per sparsity, in order, and weights that are close to the best on it.
    """
    scale = np.sqrt(np.einsum("gii->gi", problem.a))
    b = ((problem.start @ problem.a) / scale[:, None, :]).astype(np.float32)
    best = (problem.start * scale[:, None, :]).astype(np.float32)
    if problem.w.shape[2] >= _WIDE:
        problem.factors.clear()  # the optimum is known, and the inverse hardly asked for
    steps = list(zip(np.asarray(penalties, np.float32), _inverses(problem, scale, penalties), strict=True))
    for sparsity in sparsities:
        mask = project(best * best, sparsity, pattern)
        found = best * mask
        if not mask.all():
            supports = _Supports(sparsity, pattern)
            mask, found = _annealed(b, found, mask, supports, steps, iterations)
        yield mask, found / scale[:, None, :]


def _inverses(problem: Problem, scale: NDArray[np.float64], penalties: Sequence[float]) -> list[Float32]:
    """(A + rho I)^-1 of the scaled moment, for each penalty; computed once for a problem."""
    keys = [("admm", rho) for rho in penalties]
    missing = [key for key in keys if key not in problem.shared]
    if missing:
        a: Float32 = np.empty(problem.a.shape, np.float32)
        np.divide(problem.a, scale[:, :, None], out=a, casting="same_kind")
        a /= scale.astype(np.float32)[:, None, :]

        def inverse(key: tuple[str, float]) -> Float32:
            shifted = a.copy()
            np.einsum("gii->gi", shifted)[...] = 1.0 + key[1]
            return inverse_of(shifted)

        with row_threads(scale.shape[1]) as threads:
            for key, found in zip(missing, threads.map(inverse, missing), strict=True):
                problem.shared[key] = found
    return [problem.shared[key] for key in keys]


@dataclass(frozen=True)
class _Supports:
    """The projection onto a pattern at a sparsity."""

    sparsity: float
    pattern: Pattern

    def __call__(self, z: Float32) -> NDArray[np.bool_]:
        return project(z * z, self.sparsity, self.pattern)


def _annealed(
    b: Float32,
    d: Float32,
    mask: NDArray[np.bool_],
    supports: _Supports,
    steps: Sequence[tuple[np.float32, Float32]],
    iterations: int,
) -> tuple[NDArray[np.bool_], Float32]:
    """The support after some iterations with each penalty, and the weights on it.

    Args:
        b: (G, O, I) right-hand sides.
        d: the first guess on its support ``mask``.
        mask: (G, O, I).
        supports: the projection.
        steps: penalties rho, each with its inverses (G, I, I).
        iterations: with each, at most.
    """
    state = _State(b, d, np.zeros_like(b), np.empty_like(b), np.empty_like(b))
    rows, columns = b.shape[1:]
    stable = 0
    with row_threads(columns) as threads:
        for rho, inverse in steps:
            for _ in range(iterations):
                threads.each(rows, partial(state.solve, rho, inverse))
                previous, mask = mask, supports(state.z)
                threads.each(rows, partial(state.follow, rho, mask))
                stable = stable + 1 if np.array_equal(mask, previous) else 0
                if stable >= _STABLE:
                    break
    return mask, state.d


@dataclass(frozen=True)
class _State:
    """Arrays (G, O, I) of the iteration in the module's words, with z = W + V / rho; changed in place."""

    b: Float32
    d: Float32
    v: Float32
    w: Float32
    z: Float32

    def solve(self, rho: np.float32, inverse: Float32, rows: slice) -> None:
        """W and z of some rows."""
        for b, d, v, w, a in zip(
            *(x[:, rows] for x in (self.b, self.d, self.v, self.w)), inverse, strict=True
        ):
            np.matmul(b - v + rho * d, a, out=w)
        np.add(self.w[:, rows], self.v[:, rows] / rho, out=self.z[:, rows])

    def follow(self, rho: np.float32, mask: NDArray[np.bool_], rows: slice) -> None:
        """D and V of some rows, with the support of D."""
        w, d, v = self.w[:, rows], self.d[:, rows], self.v[:, rows]
        np.multiply(self.z[:, rows], mask[:, rows], out=d)
        v += rho * (w - d)
