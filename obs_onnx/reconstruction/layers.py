"""Layer-wise pruning of a whole model: measured damage curves, and the solution itself.

Both walk through the model stage by stage (:mod:`obs_onnx.calibration.staged_run`):

* :func:`damage_curves` prunes one layer at a time at several levels, everything else dense, and measures
  what that does to the outputs on held-out data.
* :func:`solve_layers` prunes all layers in order. A layer sees what the already pruned layers before
  it really give (``x'``) and is refitted to what the dense model would have put out (``t``): with
  ``A = sum x' x'^T`` and ``C = sum x' t^T`` the optimum on a support S is ``(A_SS)^-1 C_S``. Where the
  layer's output is added to skip connections, the target includes their error: ``t = y + (skip - skip')``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.calibration.layer_problem import LayerProblem
from obs_onnx.calibration.layer_weights import LayerWeights, Tensors
from obs_onnx.calibration.second_moments import Moments
from obs_onnx.calibration.sequential_moments import SequentialMoments
from obs_onnx.cluster.executor import Held
from obs_onnx.criteria.weight_derivatives import WeightScores
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.layers.stages import Plan
from obs_onnx.runtimes.base import Runtime
from obs_onnx.runtimes.sessions.partial_run import Values
from obs_onnx.solvers import UNSTRUCTURED, Pattern, Solution, solve_levels
from obs_onnx.solvers.blas_threads import threads_for
from obs_onnx.work.work_folder import NOWHERE, Work

__all__ = ["LayerSolver", "SolveOptions", "Solved", "is_wide", "solve_layers"]

_WIDE = 1024


def is_wide(layer: Layer) -> bool:
    """Whether a layer has so many columns that it is costly to solve."""
    return layer.layout.goi[2] >= _WIDE


@dataclass(frozen=True)
class SolveOptions:
    """How layers are solved.

    Attributes:
        method: auto, obs, admm, lobs, magnitude or random, or the name of ``scores``.
        pattern: which weights live or die together.
        damping: relative to the mean of the moment's diagonal.
        compensate: False leaves the kept weights as they are.
        sequential: moments of the pruned prefix with dense targets, rather than of the dense model.
        seed: of method ``random``.
        scores: what the weights of a layer are worth, where that decides which of them go.
    """

    method: str = "auto"
    pattern: Pattern = UNSTRUCTURED
    damping: float = 1e-2
    compensate: bool = True
    sequential: bool = True
    seed: int = 0
    scores: WeightScores | None = None

    def scored(self, layer: Layer) -> NDArray[np.float64] | None:
        """(G, O, I) what the weights of a layer are worth, where that decides."""
        return None if self.scores is None else self.scores(layer)


@dataclass(frozen=True)
class Solved:
    """One solved layer.

    Attributes:
        solution: weights, mask and predicted error in canonical form.
        tensors: initializer name -> new value (the weight, and the bias where there is one).
        alone: it was refitted on what the dense model gives to it, since the lengths of its inputs follow
            from the data and are others in the pruned model.
    """

    solution: Solution
    tensors: Tensors
    alone: bool = False


class LayerSolver:
    """A layer of the dense model with its moments; what several solutions share is computed once.

    Args:
        weights: of the layer.
        moments: of its inputs.
        options: of the solver; ``scores`` in them is not asked.
        scores: (G, O, I) what its weights are worth, where that decides which of them go.
    """

    def __init__(
        self,
        weights: LayerWeights,
        moments: Moments,
        options: SolveOptions,
        scores: NDArray[np.float64] | None = None,
    ) -> None:
        self._layer, self._options, self._scores = weights.layer, options, scores
        self._posed, self._weights = LayerProblem(weights, moments, options.damping), weights

    def solve(self, removed: Sequence[int], effort: str | None = None) -> list[Solved]:
        """Solutions with so many weights set to zero; ``effort`` as in the solvers."""
        options, layer = self._options, self._layer
        with threads_for(layer.layout.goi[2]):
            solutions = solve_levels(
                self._posed.problem,
                [count / layer.size for count in removed],
                options.pattern,
                options.method,
                options.seed,
                refit=options.compensate,
                effort=effort,
                scores=self._scores,
            )
        return [self._finished(solution) for solution in solutions]

    def _finished(self, solution: Solution) -> Solved:
        posed = self._posed
        if not self._options.compensate:
            w_GOI = posed.w_GOI * solution.mask
            solution = replace(solution, w=w_GOI, error=posed.problem.error(w_GOI))
            return Solved(solution, self._weights.tensors(w_GOI))
        return Solved(solution, posed.tensors(solution.w))


@dataclass(frozen=True)
class _Solving:
    """A layer to solve: plain data, for any process."""

    weights: LayerWeights
    moments: Held[Moments]
    options: SolveOptions
    scores: NDArray[np.float64] | None
    removed: int
    alone: bool

    def __call__(self) -> Solved:
        solver = LayerSolver(self.weights, self.moments.take(), self.options, self.scores)
        effort = None if is_wide(self.weights.layer) else "thorough"
        return replace(solver.solve([self.removed], effort)[0], alone=self.alone)


def solve_layers(
    runtime: Runtime,
    model: ir.Model,
    plan: Plan,
    fit: Iterable[Values],
    removed: Mapping[str, int],
    *,
    options: SolveOptions,
    budget: int,
    advance: Callable[[int], None],
    work: Work = NOWHERE,
) -> tuple[ir.Model, dict[str, Solved]]:
    """Prune all layers in order.

    Args:
        runtime: where everything runs.
        model: dense, canonical; not changed.
        plan: its stages.
        fit: feeds that the moments come from.
        removed: layer name -> number of weights to set to zero. With sequential correction layers without
            an entry are refitted too: they repair what the layers before them broke.
        options: of the solver.
        budget: bytes of activations in memory.
        advance: called with 1 after each layer.
        work: where solved layers are kept.

    Returns:
        The pruned model, and what became of each layer.
    """
    pruned = model.clone()
    repairs = options.sequential and options.compensate
    names = [layer.name for stage in plan.stages for layer in stage.layers]
    names = [name for name in names if repairs or removed.get(name, 0)]
    work = work.stage("solve layers", model, removed)
    results = work.known(Solved, names)
    if len(results) == len(names):
        SetWeights({key: array for one in results.values() for key, array in one.tensors.items()})(pruned)
        advance(sum(len(stage.layers) for stage in plan.stages))
        return pruned, results
    prefixes = SequentialMoments(runtime, model, plan, fit, budget, paired=options.sequential)

    def solving(layer: Layer, moments: Moments) -> _Solving:
        return _Solving(
            LayerWeights.of(model, layer),
            Held(moments),
            replace(options, scores=None),
            options.scored(layer),
            removed.get(layer.name, 0),
            layer.name in prefixes.alone,
        )

    for stage in plan.stages:
        chosen = [layer for layer in stage.layers if layer.name in names]
        ahead = [layer for layer in chosen if layer.name not in results]
        advance(len(stage.layers) - len(ahead))
        if ahead:
            moments = prefixes.observe(stage)
            tasks: dict[str, Callable[[], Solved]] = {
                layer.name: solving(layer, moments.pop(layer.name)) for layer in ahead
            }
            results.update(work.share(Solved, tasks, lambda: advance(1)))
        else:
            prefixes.pass_by(stage)
        SetWeights({key: a for one in chosen for key, a in results[one.name].tensors.items()})(pruned)
        prefixes.follow(pruned)
    return pruned, {name: results[name] for name in names}
