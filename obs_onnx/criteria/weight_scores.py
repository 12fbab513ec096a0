"""What single weights are worth, where that decides how many of each layer go.

magnitude     |w|
obs           w^2 / (A^-1)_qq with the damped moment A of the layer's inputs: the error of the layer's
              own output when this weight alone goes and the others move
taylor ...    see :mod:`obs_onnx.criteria.weight_derivatives`
random        uniform numbers
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.allocation.thresholds import ScoreCurve, score_curves
from obs_onnx.calibration.layer_problem import LayerProblem
from obs_onnx.calibration.layer_weights import LayerWeights, weight_of
from obs_onnx.calibration.sequential_moments import SequentialMoments
from obs_onnx.criteria.reference_loss import LabelledBatches
from obs_onnx.criteria.weight_derivatives import KINDS, WeightDerivatives, WeightScores
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.layers.stages import Plan
from obs_onnx.runtimes.base import Runtime
from obs_onnx.runtimes.sessions.partial_run import Values
from obs_onnx.solvers import METHODS, Pattern

__all__ = ["ALLOCATIONS", "Scorer", "WeightAllocation", "criteria"]

Float = NDArray[np.float64]


@dataclass
class WeightAllocation:
    """Curves of layers from the scores of their weights, with nothing measured.

    Attributes:
        name: one of :data:`ALLOCATIONS`.
        runtime, plan, fit: where the model runs, its stages, and the data that scores come from.
        budget: bytes of activations in memory.
        damping: of second moments, relative.
        pattern: which weights live or die together.
        normalize: divide the scores of each layer by their Euclidean norm.
        seed: of what is random.
        known: a model, and the scores of its weights by gradients.
    """

    name: str
    runtime: Runtime
    plan: Plan
    fit: Iterable[Values]
    budget: int
    damping: float
    pattern: Pattern
    normalize: bool = False
    seed: int = 0
    known: tuple[ir.Model, WeightScores] | None = None
    _last: tuple[ir.Model, dict[str, ScoreCurve]] | None = field(default=None, init=False, repr=False)

    def curves(
        self, model: ir.Model, layers: Sequence[Layer], advance: Callable[[int], None] = lambda done: None
    ) -> dict[str, ScoreCurve]:
        """Of the weights that ``layers`` have in ``model``; asked again about the same model, nothing runs.

        Raises:
            GradientError: scores need gradients, and the model cannot be differentiated.
        """
        if self._last is None or self._last[0] is not model:
            found = {}
            for layer, scores in self.scores(model, layers):
                found[layer.name] = scores
                advance(1)
            self._last = model, score_curves(found, self.pattern, self.normalize)
        return self._last[1]

    def scores(self, model: ir.Model, layers: Sequence[Layer]) -> Iterator[tuple[Layer, Float]]:
        """Scores (G, O, I) of every layer, not negative."""
        return ALLOCATIONS[self.name](self, model, layers)


Scorer: TypeAlias = Callable[[WeightAllocation, ir.Model, Sequence[Layer]], Iterator[tuple[Layer, Float]]]


def _magnitude(
    given: WeightAllocation, model: ir.Model, layers: Sequence[Layer]
) -> Iterator[tuple[Layer, Float]]:
    for layer in layers:
        yield layer, np.abs(weight_of(model, layer))


def _random(
    given: WeightAllocation, model: ir.Model, layers: Sequence[Layer]
) -> Iterator[tuple[Layer, Float]]:
    for number, layer in enumerate(layers):
        yield layer, np.random.default_rng([given.seed, number]).random(layer.layout.goi)


def _surgeon(
    given: WeightAllocation, model: ir.Model, layers: Sequence[Layer]
) -> Iterator[tuple[Layer, Float]]:
    names = {layer.name for layer in layers}
    prefixes = SequentialMoments(given.runtime, model, given.plan, given.fit, given.budget, paired=False)
    for stage in given.plan.stages:
        moments = prefixes.observe(stage)
        for layer in stage.layers:
            if layer.name in names:
                problem = LayerProblem(
                    LayerWeights.of(model, layer), moments.pop(layer.name), given.damping
                ).problem
                yield layer, problem.w**2 / np.einsum("gii->gi", problem.inverse)[:, None, :]


def _by_loss(
    given: WeightAllocation, model: ir.Model, layers: Sequence[Layer]
) -> Iterator[tuple[Layer, Float]]:
    if given.known is not None and given.known[0] is model:
        scores = given.known[1]
    else:
        lessons = LabelledBatches(given.runtime, model, given.fit, given.seed)
        names = [layer.name for layer in layers]
        scores = WeightScores(WeightDerivatives(lessons, names, given.seed), given.name)
    for layer in layers:
        yield layer, scores(layer)


ALLOCATIONS: Mapping[str, Scorer] = {
    "magnitude": _magnitude,
    "obs": _surgeon,
    **dict.fromkeys(KINDS, _by_loss),
    "random": _random,
}
"""Name of a criterion whose scores compare the weights of all layers -> what gives them."""


def criteria() -> tuple[str, ...]:
    """Names of all criteria that choose weights in a layer: a method of the solvers, or least scores."""
    return (*METHODS, *KINDS)
