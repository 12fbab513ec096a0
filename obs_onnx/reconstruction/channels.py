"""Channel pruning of a whole model: measured damage curves of coupled groups, and the solution itself.

* :func:`group_curves` removes channels of one group at a time, at several levels and with every layer that
  reads them refitted, everything else dense, and measures what that does to the outputs on held-out data.
* :func:`solve_channels` removes the channels of all groups for good and refits the layers of the smaller
  model in order, each one on what the layers before it really give, to the part of the dense model's
  output that is still there (see :mod:`obs_onnx.calibration.sequential_moments`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.allocation.curves import Mask
from obs_onnx.calibration.layer_problem import LayerProblem
from obs_onnx.calibration.layer_weights import LayerWeights, Tensors, regrouped, stored
from obs_onnx.calibration.second_moments import Moments
from obs_onnx.calibration.sequential_moments import SequentialMoments
from obs_onnx.cluster.executor import Held
from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.io.scratch import array_outside, let_go, put_away
from obs_onnx.passes.channels.coupling import Coupling, Keep
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.layers.stages import Plan, Stage
from obs_onnx.passes.traits.linear import ConvGeometry, Integers, packed, unpacked
from obs_onnx.runtimes.base import Runtime
from obs_onnx.runtimes.sessions.block_session import is_weighty
from obs_onnx.runtimes.sessions.partial_run import Values
from obs_onnx.solvers.blas_threads import threads_for
from obs_onnx.solvers.structured_obs import refit_columns
from obs_onnx.work.work_folder import NOWHERE, Work

__all__ = ["Refitted", "emptied", "is_depthwise", "solve_alone", "solve_channels", "spread"]


class Refitted(NamedTuple):
    """A smaller model whose layers were refitted.

    Attributes:
        model: the smaller one.
        tensors: initializers of it that were refitted.
        alone: names of layers that were refitted on what the dense model gives to them, since the lengths of
            their inputs follow from the data and are others in the smaller model.
        damping: relative damping that was chosen for each layer.
    """

    model: ir.Model
    tensors: Tensors
    alone: frozenset[str] = frozenset()
    damping: Mapping[str, float] = MappingProxyType({})


def emptied(model: ir.Model, layers: Iterable[Layer], names: Collection[str]) -> Tensors:
    """Zeros for the weights of these layers and for their biases."""
    found: Tensors = {}
    for layer in layers:
        if layer.name in names:
            held = LayerWeights.of(model, layer)
            bias = None if held.bias is None else np.zeros_like(held.bias, np.float64)
            found |= held.tensors(np.zeros(layer.layout.goi), bias)
    return found


class _Cutter:
    """Cuts values of the dense model to what is left of them."""

    def __init__(self, coupling: Coupling, keep: Keep) -> None:
        self._coupling, self._alive = coupling, coupling.alive(keep)
        self._stays: dict[str, list[tuple[int, Mask]]] = {}

    def stays(self, name: str) -> list[tuple[int, Mask]]:
        """Axes of a value that shrink, and which of their elements stay."""
        if name not in self._stays:
            axes = self._coupling.axes(self._coupling.named(name)) or []
            masks = [(axis, self._alive(labels)) for axis, labels in enumerate(axes)]
            self._stays[name] = [(axis, mask) for axis, mask in masks if not mask.all()]
        return self._stays[name]

    def fits(self, layer: Layer) -> bool:
        """Whether what a layer reads and gives loses nothing along axes whose size varies with the data."""
        dynamic = self._coupling.graph.concrete.dynamic
        return not any(
            dynamic[self._coupling.named(name)][axis]
            for use in layer.uses
            for name in (use.x, use.y)
            for axis, _ in self.stays(name)
        )

    def __call__(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        for axis, mask in self.stays(name):
            array = array.compress(mask, axis=axis)
        return array


def spread(coupling: Coupling, keep: Keep, tensors: Tensors) -> Tensors:
    """Initializers of a smaller model, put back into those of the dense one; of a large one in files."""
    cutter, large = _Cutter(coupling, keep), is_weighty(coupling.model)
    found: Tensors = {}
    zeros = _packed_zeros(coupling.model)
    for name, small in tensors.items():
        array = stored(coupling.model, name)
        if name in zeros:
            found[name] = _spread_zeros(array, small, zeros[name], dict(cutter.stays(zeros[name].q)))
            continue
        if array.dtype.kind == "f":
            array = array.astype(np.promote_types(array.dtype, np.float32) if large else np.float64)
        array = array.copy()
        places = [np.arange(n) for n in array.shape]
        for axis, mask in cutter.stays(name):
            places[axis] = np.flatnonzero(mask)
        array[np.ix_(*places)] = small
        found[name] = array_outside(array) if large else array
    return found


def _packed_zeros(model: ir.Model) -> dict[str, Integers]:
    """Zero points of which several lie in a byte, and how."""
    forms = (layer.integers for layer in find_layers(model)[0])
    return {form.zero: form for form in forms if form is not None and form.bits and form.zero is not None}


def _spread_zeros(
    dense: NDArray[Any], small: NDArray[Any], form: Integers, stays: Mapping[int, Mask]
) -> NDArray[Any]:
    """Zero points of the rows and blocks that stay, among those of all."""
    rows, blocks = (np.flatnonzero(stays.get(axis, np.ones(n, bool))) for axis, n in enumerate(form.grid))
    numbers = unpacked(dense.reshape(form.grid[0], -1), form.bits, form.grid[1])
    numbers[np.ix_(rows, blocks)] = unpacked(small.reshape(len(rows), -1), form.bits, len(blocks))
    return packed(numbers, form.bits).reshape(dense.shape)


@dataclass(frozen=True)
class _RefittedLayer:
    """A layer that was refitted.

    Attributes:
        tensors: its initializers.
        alone: whether that was on what the dense model gives to it.
        damping: that was chosen, relative.
    """

    tensors: Tensors
    alone: bool
    damping: float


@dataclass(frozen=True)
class _Refitting:
    """A layer to refit: plain data, for any process."""

    weights: LayerWeights
    moments: Held[tuple[Moments, float]]
    alone: bool

    def __call__(self) -> _RefittedLayer:
        moments, damping = self.moments.take()
        posed = LayerProblem(self.weights, moments, damping)
        with threads_for(self.weights.layer.layout.goi[2]):
            return _RefittedLayer(posed.tensors(posed.problem.optimum), self.alone, damping)


def is_depthwise(layer: Layer) -> bool:
    """Whether every output sees a single input channel."""
    geometry = layer.uses[0].geometry
    return isinstance(geometry, ConvGeometry) and layer.layout.goi[2] == int(np.prod(geometry.kernel))


def solve_channels(
    runtime: Runtime,
    coupling: Coupling,
    plan: Plan,
    fit: Iterable[Values],
    keep: Keep,
    *,
    fixed: Iterable[str],
    damping: float,
    budget: int,
    advance: Callable[[int], None],
    start: Tensors | None = None,
    empty: Collection[str] = (),
    chosen: Mapping[str, float] | None = None,
    work: Work = NOWHERE,
) -> Refitted:
    """Remove channels and refit what is left, layer by layer.

    Depthwise convolutions see one channel each and stay as they are. So do layers over rows of a varying
    number of which some go: which of the dense rows stay is not known.

    Args:
        runtime: where everything runs.
        coupling: of the dense model; the model is not changed.
        plan: stages of the layers to refit.
        fit: feeds that the moments come from.
        keep: channels that stay.
        fixed: names of layers that stay as they are.
        damping: of the second moments, relative; the least, what each layer needs is chosen on the data.
        budget: bytes of activations in memory.
        advance: called with 1 after each layer.
        start: initializers of the dense model that the smaller one starts from instead of the dense ones.
        empty: names of layers that give zeros.
        chosen: damping by layer, where it was chosen before.
        work: where refitted layers are kept.
    """
    dense = coupling.model
    small = SetWeights(start or {})(dense.clone()).model
    RemoveChannels(keep, coupling.of(small)).call(small)
    large = is_weighty(dense)
    if large:
        put_away(small)
        let_go(dense)
    layers = {layer.name: layer for layer in find_layers(small)[0]}
    spared, cut = {*fixed, *empty}, _Cutter(coupling, keep)
    free = {
        layer.name: layers[layer.name]
        for stage in plan.stages
        for layer in stage.layers
        if layer.name in layers
        and layer.name not in spared
        and not is_depthwise(layers[layer.name])
        and cut.fits(layers[layer.name])
    }
    names = list(free)
    refitted = regrouped(small, free)
    SetWeights(refitted)(small)
    chosen = {} if chosen is None else chosen
    work = work.stage("refit layers", dense, keep, start or {}, spared, set(empty), damping, chosen)
    known = work.known(_RefittedLayer, names)
    prefixes = None
    if len(known) < len(names):
        prefixes = SequentialMoments(
            runtime, dense, plan, fit, budget, paired=True, cut=cut, start=small, halves=True
        )
    for number, stage in enumerate(plan.stages):
        solved = [free[layer.name] for layer in stage.layers if layer.name in free]
        if solved and prefixes is not None:
            prefixes.skip(number, small)
            known.update(_refitted(prefixes, stage, solved, small, damping, chosen, known, work))
        there = [layers[layer.name] for layer in stage.layers if layer.name in layers]
        tensors = emptied(small, there, empty)
        for layer in solved:
            tensors.update(known[layer.name].tensors)
        SetWeights(tensors)(small)
        if large:
            put_away(small, tensors)
            let_go(dense)
            let_go(small)
            tensors = {name: stored(small, name) for name in tensors}
        refitted.update(tensors)
        if solved and prefixes is not None:
            prefixes.follow(small)
        advance(len(stage.layers))
    alone = frozenset(name for name in names if known[name].alone)
    return Refitted(small, refitted, alone, {name: known[name].damping for name in names})


def _refitted(
    prefixes: SequentialMoments,
    stage: Stage,
    layers: Sequence[Layer],
    small: ir.Model,
    damping: float,
    chosen: Mapping[str, float],
    known: Collection[str],
    work: Work,
) -> dict[str, _RefittedLayer]:
    """Layers of a stage refitted on what comes to them, but for those that are ``known``."""
    ahead = [layer for layer in layers if layer.name not in known]
    if not ahead:
        prefixes.pass_by(stage, layers)
        return {}
    moments = prefixes.pose(stage, layers, small, damping, chosen)
    tasks: dict[str, Callable[[], _RefittedLayer]] = {
        layer.name: _Refitting(
            LayerWeights.of(small, layer), Held(moments.pop(layer.name)), layer.name in prefixes.alone
        )
        for layer in ahead
    }
    return work.share(_RefittedLayer, tasks)


def solve_alone(evidence: ChannelStatistics, keep: Mapping[int, Mask]) -> Tensors:
    """Weights of all layers that read channels, refitted on the dense model's inputs alone."""
    gone: dict[str, NDArray[np.bool_]] = {}
    layers: dict[str, Layer] = {}
    for group in evidence.coupling.groups:
        if group.id not in keep:
            continue
        for one in evidence.consumers(group):
            columns = np.asarray(one.columns[~keep[group.id]].sum(axis=0)).reshape(-1) > 0
            gone[one.layer.name] = gone.get(one.layer.name, np.zeros(len(columns), bool)) | columns
            layers[one.layer.name] = one.layer
    tensors: Tensors = {}
    for name, columns in gone.items():
        posed = evidence.posed(layers[name])
        with threads_for(layers[name].layout.goi[2]):
            tensors.update(posed.tensors(refit_columns(posed.problem, ~columns)))
    return tensors
