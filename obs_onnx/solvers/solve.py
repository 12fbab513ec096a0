"""Prune one layer: choose a method, find supports at several sparsities, refit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

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

__all__ = [
    "AUTO",
    "METHODS",
    "Asked",
    "Choice",
    "Method",
    "choose_method",
    "methods_for",
    "solve_levels",
]

AUTO = "auto"

_WIDE = 2048
_EARLY = {"brief", "quick"}  # efforts whose iterative refits end early
_BOTH_SECONDS = 2.0
_EARLY_END = 0.5
_EARLY_RESIDUAL = 1e-4

Mask = NDArray[np.bool_]
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """What a method is asked for; see :func:`solve_levels`."""

    problem: Problem
    sparsities: Sequence[float]
    pattern: Pattern
    seed: int
    effort: str | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(G, O, I) of the weight."""
        groups, rows, columns = self.problem.w.shape
        return groups, rows, columns


@dataclass(frozen=True)
class Method:
    """A method.

    Attributes:
        supports: for each sparsity the mask of the kept weights, and what they become without a refit, from
            which a refit starts; None: they stay as they are. All arrays are (G, O, I).
        exact: its weights are always refitted.
        patient: its refits never end early.
        single: it removes single weights only, no pattern of them.
    """

    supports: Callable[[Asked], Iterable[tuple[Mask, Float | None]]]
    exact: bool = False
    patient: bool = False
    single: bool = False


@dataclass(frozen=True)
class Choice:
    """Not a method, but which to take.

    Attributes:
        among: names of methods for what is asked, of which the one that errs least counts.
    """

    among: Callable[[Asked], Sequence[str]]


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


def methods_for(
    method: str, shape: tuple[int, int, int], levels: int, pattern: Pattern = UNSTRUCTURED
) -> tuple[str, ...]:
    """Names of the methods that are tried for a weight (G, O, I) at so many levels.

    Of several levels "auto" is the cheaper of obs and admm; of one level admm, and obs where it costs little.
    """
    if method != AUTO:
        return (method,)
    if levels > 1:
        return (choose_method(shape, levels, pattern),)
    affordable = _surgeon_seconds(shape) < _BOTH_SECONDS
    return ("admm", "obs") if pattern.kind != "block" and affordable else ("admm",)


def _by_cost(asked: Asked) -> tuple[str, ...]:
    return methods_for(AUTO, asked.shape, len(asked.sparsities), asked.pattern)


def _surgeon(asked: Asked) -> Iterator[tuple[Mask, None]]:
    problem, pattern = asked.problem, asked.pattern
    if pattern not in problem.shared:
        problem.shared[pattern] = obs_path(problem, pattern)
    path = problem.shared[pattern]
    for sparsity in asked.sparsities:
        yield path.mask(sparsity), None


def _admm(asked: Asked) -> Iterator[tuple[Mask, Float]]:
    effort = EFFORTS[_effort(asked.shape[2], asked.effort)]
    yield from admm_levels(asked.problem, asked.sparsities, asked.pattern, *effort)


def _lobs(asked: Asked) -> list[tuple[Mask, Float]]:
    rising = sorted(range(len(asked.sparsities)), key=lambda i: asked.sparsities[i])
    levels = [asked.sparsities[i] for i in rising]
    solved = lobs_levels(asked.problem.w, asked.problem.inverse, levels)
    found = {i: (mask, w) for i, (w, mask) in zip(rising, solved, strict=True)}
    return [found[i] for i in range(len(levels))]


def _magnitude(asked: Asked) -> Iterator[tuple[Mask, None]]:
    for sparsity in asked.sparsities:
        yield magnitude_mask(asked.problem.w, sparsity, asked.pattern), None


def _random(asked: Asked) -> Iterator[tuple[Mask, None]]:
    for sparsity in asked.sparsities:
        yield random_mask(asked.shape, sparsity, asked.pattern, asked.seed), None


METHODS: Mapping[str, Method | Choice] = {
    AUTO: Choice(_by_cost),
    "obs": Method(_surgeon, exact=True),
    "admm": Method(_admm, exact=True),
    "lobs": Method(_lobs, patient=True, single=True),
    "magnitude": Method(_magnitude),
    "random": Method(_random),
}
"""Name of a method -> the method."""


def solve_levels(
    problem: Problem,
    sparsities: Sequence[float],
    pattern: Pattern = UNSTRUCTURED,
    method: str = AUTO,
    seed: int = 0,
    refit: bool = True,
    effort: str | None = None,
    scores: Float | None = None,
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
        effort: "brief", "quick", "normal" or "thorough" for admm; None: normal, quick from 2048 columns.
            With brief and quick, iterative refits end early too, at a relative residual of 1e-4.
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
    asked = Asked(problem, sparsities, pattern, seed, effort)
    if scores is not None:
        return _solutions(asked, method, _by_scores(scores), refit)
    chosen = METHODS[method]
    if isinstance(chosen, Method):
        return _solutions(asked, method, chosen, refit)
    methods = {name: one for name in chosen.among(asked) if isinstance(one := METHODS[name], Method)}
    found = [_solutions(asked, name, one, refit) for name, one in methods.items()]
    return [min(level, key=lambda solution: solution.error) for level in zip(*found, strict=True)]


def _by_scores(scores: Float) -> Method:
    return Method(lambda asked: ((project(scores, s, asked.pattern), None) for s in asked.sparsities))


def _solutions(asked: Asked, name: str, method: Method, refit: bool) -> list[Solution]:
    """What a method finds, with the best weights on its supports where they are wanted."""
    if method.single and asked.pattern.kind != "unstructured":
        raise OptionError(f"{name} removes single weights, not {asked.pattern}; use obs or admm")
    problem, solutions = asked.problem, []
    early = _effort(asked.shape[2], asked.effort) in _EARLY and not method.patient
    tolerance = _EARLY_RESIDUAL if early else 1e-9
    exact = refit or method.exact
    for mask, left in method.supports(asked):
        w = refit_on(problem, mask, tolerance, left) if exact else problem.w * mask if left is None else left
        solutions.append(Solution(w, mask, problem.error(w, exact), problem.damping, name))
    return solutions
