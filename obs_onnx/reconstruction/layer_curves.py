"""Damage curves of layers: each one pruned alone at several sparsities, measured at the outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.allocation.curves import Curve, measure_curve
from obs_onnx.calibration.activation_cache import ActivationCache
from obs_onnx.calibration.layer_weights import LayerWeights, is_feedable, names_of, stored
from obs_onnx.calibration.second_moments import Moments
from obs_onnx.calibration.sequential_moments import SequentialMoments
from obs_onnx.calibration.sharded_moments import sharded_moments
from obs_onnx.calibration.staged_run import StagedRun
from obs_onnx.cluster.executor import Executor, Held
from obs_onnx.evaluation.measures.output_damage import Damage
from obs_onnx.evaluation.measures.yardstick import Yardstick
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.layers.stages import Plan, Stage
from obs_onnx.reconstruction.layers import LayerSolver, Solved, SolveOptions, is_wide
from obs_onnx.runtimes.base import Runtime
from obs_onnx.runtimes.on_device import also
from obs_onnx.runtimes.sessions.partial_run import Values
from obs_onnx.work.work_folder import NOWHERE, Work

__all__ = ["damage_curves"]


class _First(NamedTuple):
    """A layer solved at its first levels, and with nothing removed where that is measured too."""

    name: str
    based: list[Solved]
    levels: list[Solved]


class _Posed:
    """A layer with its moments; its problem is set up where it is solved, here or in another process."""

    def __init__(
        self,
        weights: LayerWeights,
        moments: Moments,
        options: SolveOptions,
        scores: NDArray[np.float64] | None,
    ) -> None:
        self.layer = weights.layer
        self._make = partial(LayerSolver, weights, options=options, scores=scores)
        self._held = Held(moments)
        self._solver: LayerSolver | None = None

    def __call__(self, sparsities: Sequence[float]) -> list[Solved]:
        """The layer at each sparsity."""
        if self._solver is None:
            self._solver = self._make(self._held.take())
        removed = [round(sparsity * self.layer.size) for sparsity in sparsities]
        return self._solver.solve(removed, "brief" if is_wide(self.layer) else None)

    def first(self, levels: Sequence[float], based: bool) -> _First:
        """The layer as it is solved first, with nothing removed too where ``based``."""
        return _First(self.layer.name, self([0.0]) if based else [], self(levels))


class _Probe:
    """Measures the outputs with one layer pruned and everything else as in ``around``.

    The walk ``testing`` has to stand at the boundary before the layer.
    """

    def __init__(
        self,
        testing: StagedRun,
        around: ir.Model,
        plan: Plan,
        layer: Layer,
        reference: Iterable[Values],
        yardstick: Yardstick,
    ) -> None:
        self._testing = testing
        self._outputs, self._reference, self._yardstick = plan.outputs, reference, yardstick
        self._around, self._stored = around, {name: stored(around, name) for name in names_of(layer)}
        self._run = testing.part(around, plan.outputs, list(self._stored)) if is_feedable(layer) else None

    def damage(self, solved: Solved) -> float:
        """With the layer as it was solved."""
        values, run = dict(self._stored), self._run
        for name, array in solved.tensors.items():
            values[name] = array.astype(values[name].dtype)
        if run is None:
            model = SetWeights(solved.tensors)(self._around.clone()).model
            values, run = {}, self._testing.part(model, self._outputs)
        damage = Damage(self._yardstick, self._outputs)
        found = run.each(also(batch, values) for batch in self._testing)
        for expected, changed in zip(self._reference, found, strict=True):
            damage.update(expected, changed)
        return damage.value


@dataclass(frozen=True)
class _Fitting:
    """Moments of layers, stage by stage.

    Attributes:
        around: the model that is measured around.
        walk: what gathers them here; None where other processes did.
        shared: what these gathered, by layer.
    """

    around: ir.Model
    walk: SequentialMoments | None
    shared: dict[str, list[Moments]]

    @classmethod
    def of(
        cls,
        runtime: Runtime,
        model: ir.Model,
        plan: Plan,
        fit: Iterable[Values],
        budget: int,
        around: ir.Model,
        layers: Sequence[Layer],
        executor: Executor,
        memory: int,
    ) -> _Fitting:
        """Of ``layers`` of a model, by the executor where the model is measured around itself."""
        shared = None
        if around is model:
            shared = sharded_moments(
                runtime, model, plan, fit, layers, told_apart=False, executor=executor, memory=memory
            )
        if shared is not None:
            return cls(around, None, shared)
        return cls(
            around, SequentialMoments(runtime, model, plan, fit, budget, paired=around is not model), {}
        )

    def gathered(self, stage: Stage, layers: Sequence[Layer]) -> dict[str, Moments]:
        """Moments of layers of the next stage, if any."""
        if self.walk is None:
            return {layer.name: self.shared.pop(layer.name)[0] for layer in layers}
        if not layers:
            self.walk.pass_by(stage)
            return {}
        return self.walk.observe(stage)

    def follow(self) -> None:
        """Go on to the stage after it."""
        if self.walk is not None:
            self.walk.follow(self.around)


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
    memory: int = 0,
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
        memory: bytes that moments of all layers may take, where other processes gather them.
    """
    around = model if context is None else context
    layers = [layer for stage in plan.stages for layer in stage.layers]
    names = [layer.name for layer in layers if chosen is None or layer.name in chosen]
    work = work.stage("damage of layers", model, context, list(levels), refinements, held_out)
    curves = work.known(Curve, names)
    if len(curves) == len(names):
        advance(len(layers))
        return curves
    missing = [layer for layer in layers if layer.name in names and layer.name not in curves]
    fitting = _Fitting.of(runtime, model, plan, fit, budget // 2, around, missing, work.executor, memory)
    testing, reference = StagedRun(runtime, plan, held_out, budget // 4), ActivationCache(budget // 4)
    whole = testing.part(model, plan.outputs)
    for outputs in whole.each(testing):
        reference.append(outputs)
    testing.step(around)

    ahead = [
        [layer for layer in stage.layers if layer.name in names and layer.name not in curves]
        for stage in plan.stages
    ]
    refined: dict[str, _Posed] = {}

    def tasks() -> Iterator[Callable[[], _First]]:
        plain = replace(options, scores=None)
        for stage, todo in zip(plan.stages, ahead, strict=True):
            moments = fitting.gathered(stage, todo)
            for layer in todo:
                weights = LayerWeights.of(model, layer)
                posed = _Posed(weights, moments.pop(layer.name), plain, options.scored(layer))
                if refinements and not is_wide(layer):
                    refined[layer.name] = posed
                yield partial(posed.first, levels, context is not None)
            fitting.follow()

    def curve(layer: Layer) -> Curve:
        _, based, first = next(one for one in solved if one.name == layer.name)
        posed = refined.pop(layer.name, None)
        probe = _Probe(testing, around, plan, layer, reference, yardstick)
        base = probe.damage(based[0]) if based else 0.0

        def measured(sparsities: Sequence[float]) -> list[tuple[float, float]]:
            found = first if posed is None or sparsities is levels else posed(sparsities)
            return [(max(probe.damage(one) - base, 0.0), one.solution.error) for one in found]

        return measure_curve(layer.size, levels, 0 if posed is None else refinements, measured)

    solved = work.executor.run(tasks())
    for stage, todo in zip(plan.stages, ahead, strict=True):
        advance(len(stage.layers) - len(todo))
        curves.update(
            work.finish(Curve, {layer.name: partial(curve, layer) for layer in todo}, lambda: advance(1))
        )
        testing.step(around)
    return {name: curves[name] for name in names}
