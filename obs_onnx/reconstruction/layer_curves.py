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
            bias = bias_of(layer)
            wide = layer.layout.goi[2] >= WIDE
            fed = [layer.name] + ([bias] if bias else [])
            solver = LayerSolver(model, layer, moments.pop(layer.name), options)
            run = testing.part(around, plan.outputs, fed)

            def try_levels(
                sparsities: Sequence[float],
                base: float = 0.0,
                layer: Layer = layer,
                run: Callable[[Values], Values] = run,
                solver: LayerSolver = solver,
                fed: list[str] = fed,
                wide: bool = wide,
            ) -> list[tuple[float, float]]:
                removed = [round(s * layer.size) for s in sparsities]
                found = []
                for solved in solver.solve(removed, "quick" if wide else None):
                    values = {name: stored(around, name) for name in fed}
                    for name, array in solved.tensors.items():
                        values[name] = array.astype(values[name].dtype)
                    damage = Damage(measure, plan.outputs)
                    for number, expected in enumerate(reference):
                        damage.update(expected, run({**testing[number], **values}))
                    found.append((max(damage.value - base, 0.0), solved.solution.error))
                return found

            measured: Callable[[Sequence[float]], list[tuple[float, float]]] = try_levels
            if context is not None:
                ((base, _),) = try_levels([0.0])
                measured = partial(try_levels, base=base)
            curves[layer.name] = measure_curve(layer.size, levels, 0 if wide else refinements, measured)
            advance(1)
        fitting.follow(around)
        testing.step(around)
    return curves
