"""Layers rounded one after another by error feedback, each on what the rounded layers before it really give.

A layer is refitted to what the float model would have put out and rounded at once
(:mod:`obs_onnx.solvers.rounding`): the moments and targets are those of
:class:`obs_onnx.calibration.sequential_moments.SequentialMoments`, and the bias makes up for the mean. Zeros
of a weight stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.calibration.layer_problem import LayerProblem
from obs_onnx.calibration.layer_weights import LayerWeights, Tensors, stored
from obs_onnx.calibration.sequential_moments import SequentialMoments
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.layers.stages import plan_stages
from obs_onnx.runtimes import Runtime
from obs_onnx.runtimes.sessions.partial_run import Values
from obs_onnx.solvers import Grid, GridKind, round_weights
from obs_onnx.solvers.grids import choose_grid

__all__ = [
    "LayerForm",
    "RoundedLayer",
    "RoundedModel",
    "along",
    "nearest_layers",
    "output_axis",
    "round_layers",
]


@dataclass(frozen=True)
class LayerForm:
    """A layer, and the grid that its weights go to.

    Attributes:
        layer: which one.
        kind: of the grid; or a grid whose scales stay.
    """

    layer: Layer
    kind: GridKind | Grid


@dataclass(frozen=True)
class RoundedLayer:
    """A layer whose weights are integers.

    Attributes:
        layer: which one.
        integers: integers.
        grid: what they stand for, with the factor that the layer puts on its weight.
        tensors: float values of the weight, and of the bias where there is one.
    """

    layer: Layer
    integers: NDArray[np.int64]
    grid: Grid
    tensors: Tensors

    @property
    def q(self) -> NDArray[np.int64]:
        """Integers in the layout of the stored weight."""
        return _stored(self.layer, self.integers).astype(np.int64)

    @property
    def scale(self) -> NDArray[np.float32]:
        """Scale of each of them."""
        return _stored_scale(self.layer, self.grid.spread(self.layer.layout.goi[2])[0])


@dataclass(frozen=True)
class RoundedModel:
    """A float model with weights on grids.

    Attributes:
        model: which one.
        layers: those that were rounded, by the names of their weights.
    """

    model: ir.Model
    layers: Mapping[str, RoundedLayer]


def output_axis(layer: Layer) -> int | None:
    """The axis of the stored weight with one element for each group and output, if there is one."""
    groups, rows, columns = layer.layout.goi
    numbers = np.arange(groups * rows).reshape(groups, rows, 1)
    stored = _stored(layer, np.broadcast_to(numbers, (groups, rows, columns)))
    for axis, length in enumerate(stored.shape):
        if length == groups * rows:
            expected = numbers.reshape([-1 if k == axis else 1 for k in range(stored.ndim)])
            if (stored == expected).all():
                return axis
    return None


def round_layers(
    runtime: Runtime,
    model: ir.Model,
    forms: Sequence[LayerForm],
    fit: Iterable[Values],
    *,
    budget: int,
    damping: float,
) -> RoundedModel:
    """Round layers of a model.

    Args:
        runtime: where it runs.
        model: of float, canonical; not changed.
        forms: its layers, and where they go.
        fit: feeds that the moments come from.
        budget: bytes of activations in memory.
        damping: least one, relative to the mean of the moment's diagonal.
    """
    kinds = {form.layer.name: form.kind for form in forms}
    plan = plan_stages(model, [form.layer for form in forms])
    walk = SequentialMoments(runtime, model, plan, fit, budget, paired=True, halves=True)
    rounded, found = model.clone(), dict[str, RoundedLayer]()
    for stage in plan.stages:
        posed = walk.pose(stage, stage.layers, model, damping)
        for layer in stage.layers:
            moments, best = posed.pop(layer.name)
            problem = LayerProblem(LayerWeights.of(model, layer), moments, best)
            found[layer.name] = _rounded(problem, kinds[layer.name])
        SetWeights({k: a for layer in stage.layers for k, a in found[layer.name].tensors.items()})(rounded)
        walk.follow(rounded)
    return RoundedModel(rounded, found)


def nearest_layers(model: ir.Model, forms: Sequence[LayerForm]) -> RoundedModel:
    """The same by nearest rounding, on grids that nothing but the weights chooses."""
    rounded, found = model.clone(), dict[str, RoundedLayer]()
    for form in forms:
        layer = form.layer
        w_GOI = layer.layout.to_matrix(stored(model, layer.name))
        grid = form.kind if isinstance(form.kind, Grid) else choose_grid(w_GOI, form.kind)
        q = np.where(w_GOI == 0, grid.spread(layer.layout.goi[2])[1], grid.nearest(w_GOI))
        found[layer.name] = _finished(layer, q, grid, {})
    SetWeights({name: one.tensors[name] for name, one in found.items()})(rounded)
    return RoundedModel(rounded, found)


def _rounded(posed: LayerProblem, kind: GridKind | Grid) -> RoundedLayer:
    mask = posed.w_GOI != 0
    done = round_weights(
        posed.problem, kind, None if mask.all() else mask, rescale=isinstance(kind, GridKind)
    )
    return _finished(posed.layer, done.q, done.grid, posed.tensors(done.w))


def _finished(layer: Layer, q: NDArray[np.int64], grid: Grid, tensors: Tensors) -> RoundedLayer:
    scale, zero = grid.spread(layer.layout.goi[2])
    weight = _stored(layer, q - zero).astype(np.float32) * _stored_scale(layer, scale)
    return RoundedLayer(layer, q, grid, {**tensors, layer.name: weight})


def _stored(layer: Layer, array_GOI: NDArray[np.generic]) -> NDArray[np.float64]:
    """An array (G, O, I) of numbers that belong to weights, in the layout of the stored weight."""
    shape = layer.layout.goi
    return replace(layer.layout, scale=1.0).to_tensor(np.broadcast_to(array_GOI, shape).astype(np.float64))


def _stored_scale(layer: Layer, scale: NDArray[np.float64]) -> NDArray[np.float32]:
    return (_stored(layer, scale) / layer.layout.scale).astype(np.float32)


def along(array: NDArray[np.float32], axis: int | None) -> NDArray[np.float32]:
    """The numbers along one axis, where they are the same along all others; a scalar without one."""
    if axis is None:
        return np.asarray(array.reshape(-1)[0])
    return np.ascontiguousarray(np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)[:, 0])
