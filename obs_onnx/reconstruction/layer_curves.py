"""Damage curves of layers: each one pruned alone at several sparsities, measured at the outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

import onnx_ir as ir

from obs_onnx.allocation.curves import Curve, measure_curve
from obs_onnx.calibration.activation_cache import ActivationCache
from obs_onnx.calibration.layer_problem import LayerWeights, bias_of, stored
from obs_onnx.calibration.second_moments import Moments
from obs_onnx.calibration.sequential_moments import SequentialMoments
from obs_onnx.calibration.staged_run import StagedRun
from obs_onnx.evaluation.measures.output_damage import Damage
from obs_onnx.evaluation.measures.yardstick import Yardstick
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.layers.stages import Plan
from obs_onnx.reconstruction.layers import LayerSolver, Solved, SolveOptions, is_wide
from obs_onnx.runtimes.base import Runtime
from obs_onnx.runtimes.sessions.partial_run import Values
from obs_onnx.work.work_folder import NOWHERE, Work

__all__ = ["damage_curves"]


class _Probe:
    """Prunes one layer at several sparsities and measures the outputs, everything else as in ``around``.

    The walk ``testing`` has to stand at the boundary before the layer.
    """

    def __init__(
        self,
        testing: StagedRun,
        around: ir.Model,
        plan: Plan,
        layer: Layer,
        solver: LayerSolver,
        reference: Iterable[Values],
        yardstick: Yardstick,
    ) -> None:
        self._testing, self._layer, self._solver = testing, layer, solver
        self._outputs, self._reference, self._yardstick = plan.outputs, reference, yardstick
        self._fed = [layer.name] + ([bias] if (bias := bias_of(layer)) else [])
        self._stored = {name: stored(around, name) for name in self._fed}
        self._run = testing.part(around, plan.outputs, self._fed)
        self._effort = "brief" if is_wide(layer) else None

    def __call__(self, sparsities: Sequence[float]) -> list[tuple[float, float]]:
        """Damage and predicted error of the layer itself at each sparsity."""
        removed = [round(sparsity * self._layer.size) for sparsity in sparsities]
        return [(self._damage(one), one.solution.error) for one in self._solver.solve(removed, self._effort)]

    def beyond(self, base: float, sparsities: Sequence[float]) -> list[tuple[float, float]]:
        """The same, where the model around has a damage of ``base`` by itself."""
        return [(max(damage - base, 0.0), error) for damage, error in self(sparsities)]

    def _damage(self, solved: Solved) -> float:
        values = dict(self._stored)
        for name, array in solved.tensors.items():
            values[name] = array.astype(values[name].dtype)
        damage = Damage(self._yardstick, self._outputs)
        for number, expected in enumerate(self._reference):
            damage.update(expected, self._run({**self._testing[number], **values}))
        return damage.value


def damage_curves(
    runtime: Runtime,
    model: ir.Model,
    plan: Plan,
    fit: Iterable[Values],
    held_out: Iterable[Values],
    *,
    levels: Sequence[float],
    refinements: int,
    yardstick: Yardstick,
    options: SolveOptions,
    budget: int,
    advance: Callable[[int], None],
    context: ir.Model | None = None,
    chosen: Collection[str] | None = None,
    work: Work = NOWHERE,
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
        yardstick: how outputs are measured, see :class:`~obs_onnx.evaluation.measures.output_damage.Damage`.
        options: of the solver.
        budget: bytes of activations in memory.
        advance: called with 1 after each layer.
        context: a model pruned before; by default the dense one.
        chosen: names of the layers to measure; by default all.
        work: where measured curves are kept.
    """
    around = model if context is None else context
    layers = [layer for stage in plan.stages for layer in stage.layers]
    names = [layer.name for layer in layers if chosen is None or layer.name in chosen]
    work = work.stage("damage of layers", model, context, list(levels), refinements, held_out)
    curves = work.known(Curve, names)
    if len(curves) == len(names):
        advance(len(layers))
        return curves
    fitting = SequentialMoments(runtime, model, plan, fit, budget // 2, paired=context is not None)
    testing, reference = StagedRun(runtime, plan, held_out, budget // 4), ActivationCache(budget // 4)
    whole = testing.part(model, plan.outputs)
    for batch in testing:
        reference.append(whole(batch))
    testing.step(around)

    def curve(layer: Layer, moments: dict[str, Moments]) -> Curve:
        weights = LayerWeights.of(model, layer)
        solver = LayerSolver(weights, moments.pop(layer.name), options, options.scored(layer))
        probe = _Probe(testing, around, plan, layer, solver, reference, yardstick)
        base = 0.0 if context is None else probe([0.0])[0][0]
        more = 0 if is_wide(layer) else refinements
        return measure_curve(layer.size, levels, more, partial(probe.beyond, base))

    for stage in plan.stages:
        ahead = [layer for layer in stage.layers if layer.name in names and layer.name not in curves]
        advance(len(stage.layers) - len(ahead))
        if ahead:
            moments = fitting.observe(stage)
            tasks = {layer.name: partial(curve, layer, moments) for layer in ahead}
            curves.update(work.finish(Curve, tasks, lambda: advance(1)))
        else:
            fitting.pass_by(stage)
        fitting.follow(around)
        testing.step(around)
    return {name: curves[name] for name in names}
