"""Damage curves of layers: each one pruned alone at several sparsities, measured at the outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

import onnx_ir as ir

from obs_onnx.allocation.curves import Curve, measure_curve
from obs_onnx.calibration.layer_problem import bias_of, stored
from obs_onnx.calibration.sequential_moments import SequentialMoments
from obs_onnx.calibration.staged_run import StagedRun
from obs_onnx.evaluation.output_damage import Damage
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.layers.stages import Plan
from obs_onnx.reconstruction.layers import WIDE, LayerSolver, SolveOptions
from obs_onnx.runtimes.base import Runtime
from obs_onnx.runtimes.partial_run import Values

__all__ = ["damage_curves"]


class _Trial:
    """One layer solved at several sparsities, each solution put into a model that runs on held-out data.

    Args:
        around: the model that the layer is in.
        layer, solver: whose weights are tried.
        wide: the layer is costly to solve.
        testing: live values of held-out data before the layer's stage.
        outputs: of the model.
        reference: what the dense model gives for each batch.
        measure: of the damage.
    """

    def __init__(
        self,
        around: ir.Model,
        layer: Layer,
        solver: LayerSolver,
        wide: bool,
        testing: StagedRun,
        outputs: Sequence[str],
        reference: Sequence[Values],
        measure: str,
    ) -> None:
        bias = bias_of(layer)
        self._fed = [layer.name, *([bias] if bias else [])]
        self._run = testing.part(around, outputs, self._fed)
        self._around, self._layer, self._solver, self._wide = around, layer, solver, wide
        self._testing, self._outputs, self._reference = testing, outputs, reference
        self._measure = measure

    def measure(self, sparsities: Sequence[float], base: float = 0.0) -> list[tuple[float, float]]:
        """Damage, less ``base``, and the layer's own error at each sparsity."""
        removed = [round(s * self._layer.size) for s in sparsities]
        found = []
        for solved in self._solver.solve(removed, "quick" if self._wide else None):
            values = {name: stored(self._around, name) for name in self._fed}
            for name, array in solved.tensors.items():
                values[name] = array.astype(values[name].dtype)
            damage = Damage(self._measure, self._outputs)
            for number, expected in enumerate(self._reference):
                damage.update(expected, self._run({**self._testing[number], **values}))
            found.append((max(damage.value - base, 0.0), solved.solution.error))
        return found


def damage_curves(
    runtime: Runtime,
    model: ir.Model,
    plan: Plan,
    fit: Iterable[Values],
    held_out: Sequence[Values],
    *,
    levels: Sequence[float],
    refinements: int,
    measure: str,
    options: SolveOptions,
    budget: int,
    advance: Callable[[int], None],
    context: ir.Model | None = None,
    chosen: Collection[str] | None = None,
) -> dict[str, Curve]:
    """Damage of every layer at several sparsities, measured with all other layers as in ``context``.

    In a context that is damaged itself, what the layer adds to it when dense is subtracted.

    Args:
        runtime: where everything runs.
        model: dense, canonical.
        plan: its stages.
        fit: feeds that the moments come from.
        held_out: feeds on which the outputs are compared with the dense ones.
        levels: sparsities measured first.
        refinements: further levels per layer, where its curve bends; none for wide layers, which are costly
            to solve.
        measure: see :class:`~obs_onnx.evaluation.output_damage.Damage`.
        options: of the solver.
        budget: bytes of activations in memory.
        advance: called with 1 after each layer.
        context: a model pruned before; by default the dense one.
        chosen: names of the layers to measure; by default all.
    """
    around = model if context is None else context
    fitting = SequentialMoments(runtime, model, plan, fit, budget * 3 // 4, paired=context is not None)
    testing = StagedRun(runtime, plan, held_out, budget // 4)
    whole = testing.part(model, plan.outputs)
    reference = [whole(batch) for batch in held_out]
    testing.step(around)
    curves: dict[str, Curve] = {}
    for stage in plan.stages:
        moments = fitting.observe(stage)
        for layer in stage.layers:
            if chosen is not None and layer.name not in chosen:
                advance(1)
                continue
            wide = layer.layout.goi[2] >= WIDE
            solver = LayerSolver(model, layer, moments.pop(layer.name), options)
            trial = _Trial(around, layer, solver, wide, testing, plan.outputs, reference, measure)
            base = 0.0 if context is None else trial.measure([0.0])[0][0]
            measured = partial(trial.measure, base=base)
            curves[layer.name] = measure_curve(layer.size, levels, 0 if wide else refinements, measured)
            advance(1)
        fitting.follow(around)
        testing.step(around)
    return curves
