"""Prune one layer: choose a method, find supports at several sparsities, refit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from obs_onnx.passes.errors import OptionError
from obs_onnx.solvers.admm import EFFORTS, admm_levels
from obs_onnx.solvers.baselines import magnitude_mask, random_mask
from obs_onnx.solvers.least_squares import refit as refit_on
from obs_onnx.solvers.lobs import lobs_levels
from obs_onnx.solvers.obs import obs_path
from obs_onnx.solvers.patterns import UNSTRUCTURED, Pattern, project
from obs_onnx.solvers.problem import Problem, Solution

__all__ = ["METHODS", "choose_method", "solve_levels"]

METHODS = ("auto", "obs", "admm", "lobs", "magnitude", "random")

_WIDE = 2048
_BOTH_SECONDS = 2.0
_EARLY_END = 0.5


def _surgeon_seconds(shape: tuple[int, int, int]) -> float:
    groups, rows, columns = shape
    return groups * rows * (columns * 6e-6 + 4e-11 * columns**3)


def choose_method(shape: tuple[int, int, int], levels: int, pattern: Pattern = UNSTRUCTURED) -> str:
    """Cheaper of "obs" and "admm" for a weight (G, O, I), by estimated seconds on one core.

    One path of the surgeon serves all levels; narrow layers go many rows at a time.
    """
    if pattern.kind == "block":
        return "admm"
    groups, rows, columns = shape
    surgeon = _surgeon_seconds(shape)
    penalties, iterations = EFFORTS[_effort(columns, None)]
    flops = levels * len(penalties) * iterations * 2.0 * groups * rows * columns**2
    flops += len(penalties) * groups * columns**3
    elements = levels * len(penalties) * iterations * groups * rows * columns
    return "obs" if surgeon < _EARLY_END * (flops / 60e9 + 2e-8 * elements) else "admm"


def _effort(columns: int, effort: str | None) -> str:
    if effort is None:
        return "quick" if columns >= _WIDE else "normal"
    if effort not in EFFORTS:
        raise OptionError(f"effort {effort!r} is none of {', '.join(EFFORTS)}")
    return effort


def _masks(
    problem: Problem,
    sparsities: Sequence[float],
    pattern: Pattern,
    method: str,
    seed: int,
    effort: str | None,
    scores: NDArray[np.float64] | None,
) -> Iterator[NDArray[np.bool_]]:
    if scores is not None:
        for sparsity in sparsities:
            yield project(scores, sparsity, pattern)
    elif method == "obs":
        if pattern not in problem.shared:
            problem.shared[pattern] = obs_path(problem, pattern)
        path = problem.shared[pattern]
        for sparsity in sparsities:
            yield path.mask(sparsity)
    elif method == "admm":
        yield from admm_levels(problem, sparsities, pattern, *EFFORTS[_effort(problem.w.shape[2], effort)])
    elif method == "magnitude":
        for sparsity in sparsities:
            yield magnitude_mask(problem.w, sparsity, pattern)
    else:
        shape = (problem.w.shape[0], problem.w.shape[1], problem.w.shape[2])
        for sparsity in sparsities:
            yield random_mask(shape, sparsity, pattern, seed)


def solve_levels(
    problem: Problem,
    sparsities: Sequence[float],
    pattern: Pattern = UNSTRUCTURED,
    method: str = "auto",
    seed: int = 0,
    refit: bool = True,
    effort: str | None = None,
    scores: NDArray[np.float64] | None = None,
) -> list[Solution]:
    """Solve a prepared problem at several sparsities, with compensation.

    Levels share what they can: damping, factorisations, the removal path. Budgets are for the whole layer:
    weights of all groups and outputs compete by what they cost. Deterministic.

    Args:
        problem: the layer, see :func:`obs_onnx.solvers.problem.prepare`.
        sparsities: shares of the weights to remove, each in [0, 1], in any order. An N:M pattern fixes the
            share: 0 refits the dense layer, any other value gives the pattern.
        pattern: structure of the zeros along I (and O for blocks).
        method: "obs" exact greedy surgeon (unstructured, N:M, 1xC); "admm" (any pattern); "lobs" as published
            (unstructured); "magnitude"; "random". "auto": for several levels the cheaper of obs and admm; for
            one level admm and, where it costs little, obs as well, whichever errs less.
        seed: for "random".
        refit: False leaves the weights of "lobs", "magnitude" and "random" as these methods put them.
        effort: "quick", "normal" or "thorough" for admm; None: normal, quick from 2048 columns. Quick also
            ends iterative refits early, at a relative residual of 1e-3.
        scores: (G, O, I), not negative: the weights of least score go, and ``method`` is their name.

    Returns:
        One :class:`Solution` per sparsity, in the order given.

    Raises:
        OptionError: unknown method or effort, sparsity outside [0, 1], a pattern the method cannot make.
    """
    if scores is None and method not in METHODS:
        raise OptionError(f"method {method!r} is none of {', '.join(METHODS)}")
    for sparsity in sparsities:
        if not 0 <= sparsity <= 1:
            raise OptionError(f"a sparsity of {sparsity} is not between 0 and 1")
    groups, rows, columns = problem.w.shape
    if method == "auto":
        cheaper = choose_method((groups, rows, columns), len(sparsities), pattern)
        affordable = _surgeon_seconds((groups, rows, columns)) < _BOTH_SECONDS
        if len(sparsities) == 1 and pattern.kind != "block" and affordable:
            both = [solve_levels(problem, sparsities, pattern, m, effort=effort)[0] for m in ("admm", "obs")]
            return [min(both, key=lambda solution: solution.error)]
        method = cheaper if len(sparsities) > 1 else "admm"
    if method == "lobs":
        if pattern.kind != "unstructured":
            raise OptionError(f"lobs removes single weights, not {pattern}; use obs or admm")
        return _lobs(problem, sparsities, refit)
    solutions = []
    for mask in _masks(problem, sparsities, pattern, method, seed, effort, scores):
        exact = refit or method in ("obs", "admm")
        w = refit_on(problem, mask, 1e-3 if effort == "quick" else 1e-9) if exact else problem.w * mask
        solutions.append(Solution(w, mask, problem.error(w, exact), problem.damping, method))
    return solutions


def _lobs(problem: Problem, sparsities: Sequence[float], refit: bool) -> list[Solution]:
    ascending = sorted(range(len(sparsities)), key=lambda i: sparsities[i])
    found: dict[int, Solution] = {}
    levels = lobs_levels(problem.w, problem.inverse, [sparsities[i] for i in ascending])
    for i, (w, mask) in zip(ascending, levels, strict=True):
        weights = refit_on(problem, mask) if refit else w
        found[i] = Solution(weights, mask, problem.error(weights, refit), problem.damping, "lobs")
    return [found[i] for i in range(len(sparsities))]
