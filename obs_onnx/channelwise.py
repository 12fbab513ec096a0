"""Channel pruning of a whole model: measured damage curves of coupled groups, and the solution itself.

* :func:`group_curves` removes channels of one group at a time, at several levels and with every layer that
  reads them refitted, everything else dense, and measures what that does to the outputs on held-out data.
* :func:`solve_channels` removes the channels of all groups for good and refits the layers of the smaller
  model in order, each one on what the layers before it really give, to the part of the dense model's
  output that is still there (see :mod:`obs_onnx.prefixes`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.allocate import Curve
from obs_onnx.damage import Damage
from obs_onnx.evidence import Consumption, Evidence
from obs_onnx.passes.branches import Branch
from obs_onnx.passes.coupling import Coupling, Group, Keep
from obs_onnx.passes.layers import ConvGeometry, Layer, find_layers
from obs_onnx.passes.places import combining, standing
from obs_onnx.passes.remove_channels import RemoveChannels
from obs_onnx.passes.segments import Plan
from obs_onnx.passes.set_weights import SetWeights
from obs_onnx.passes.silence import silence
from obs_onnx.prefixes import LayerProblem, Prefixes, Tensors, bias_of, stored
from obs_onnx.runtimes.base import Runtime
from obs_onnx.saliency import Criterion
from obs_onnx.solvers.structured import refit_columns
from obs_onnx.threads import threads_for
from obs_onnx.walk import Values, Walk

__all__ = ["Ranked", "Reference", "compensated", "emptied", "group_curves", "solve_channels", "spread"]

Mask = NDArray[np.bool_]
_RUINED = 1e9  # damage of outputs that are no numbers any more


@dataclass(frozen=True)
class Ranked:
    """A group's channels in order of removal, and what removing so many of them costs.

    Attributes:
        order: (n,) channels, the first to go first.
        curve: damage against the share removed.
    """

    order: NDArray[np.int64]
    curve: Curve

    def keep(self, count: int) -> Mask:
        """Mask of the channels that stay when ``count`` do."""
        mask = np.zeros(len(self.order), bool)
        mask[self.order[len(self.order) - count :]] = True
        return mask


@dataclass(frozen=True)
class Reference:
    """Held-out feeds, and the dense model's outputs for them, to be gone through again and again."""

    feeds: Sequence[Values]
    outputs: Iterable[Values]
    measure: str


def compensated(evidence: Evidence, reading: Sequence[Consumption], keep: Mask, compensate: bool) -> Tensors:
    """Weights and biases of the layers that read a group, without the columns of removed channels."""
    tensors: Tensors = {}
    for one in reading:
        layer = one.layer
        gone = np.asarray(one.columns[~keep].sum(axis=0)).reshape(-1) > 0
        if not compensate:
            w_GOI = layer.layout.to_matrix(stored(evidence.model, layer.name))
            groups, _, columns = w_GOI.shape
            w_GOI = np.where(gone.reshape(groups, 1, columns), 0.0, w_GOI)
            tensors[layer.name] = layer.layout.to_tensor(w_GOI)
            continue
        posed = evidence.posed(layer)
        with threads_for(layer.layout.goi[2]):
            tensors.update(posed.tensors(refit_columns(posed.problem, ~gone)))
    return tensors


def emptied(model: ir.Model, layers: Iterable[Layer], names: Collection[str]) -> Tensors:
    """Zeros for the weights of these layers and for their biases."""
    held = [name for layer in layers if layer.name in names for name in (layer.name, bias_of(layer)) if name]
    return {name: np.zeros_like(stored(model, name), np.float64) for name in held}


class _Probe:
    """Measures removal of channels of one group, everything else as it is.

    Where layers alone combine the channels, columns of zeros in their weights silence them and one session
    serves all masks; otherwise (normalisation, products of activations) each mask needs a session of its own.
    """

    def __init__(
        self,
        testing: Walk,
        model: ir.Model,
        coupling: Coupling,
        group: Group,
        reading: Sequence[Consumption],
        plan: Plan,
        reference: Reference,
    ) -> None:
        self._testing, self._model, self._group, self._plan = testing, model, group, plan
        self._reference, self._coupling = reference, coupling
        self._clean = is_clean(coupling, group, reading)
        layers = [one.layer for one in reading]
        self._fed = [name for layer in layers for name in (layer.name, bias_of(layer)) if name]
        self._dense = {name: stored(model, name) for name in self._fed}
        self._run = testing.part(model, plan.outputs, self._fed) if self._clean else None

    def __call__(self, keep: Mask, tensors: Tensors) -> float:
        """Damage with the channels of ``keep`` and these weights of the layers that read them."""
        if self._run is not None:
            values = {
                name: tensors[name].astype(dense.dtype) if name in tensors else dense
                for name, dense in self._dense.items()
            }
            return self._damage(self._run, values)
        silenced = SetWeights(tensors)(silence(self._model, {self._group.id: keep}, self._coupling)).model
        return self._damage(self._testing.part(silenced, self._plan.outputs), {})

    def base(self) -> float:
        """Damage with all channels and weights as they are."""
        return self._damage(self._testing.part(self._model, self._plan.outputs), {})

    def _damage(self, run: Callable[[Values], Values], values: Values) -> float:
        damage = Damage(self._reference.measure, self._plan.outputs)
        for number, expected in enumerate(self._reference.outputs):
            damage.update(expected, run({**self._testing[number], **values}))
        return damage.value if damage.value < _RUINED else _RUINED  # whatever is no number, too


def is_clean(coupling: Coupling, group: Group, reading: Sequence[Consumption]) -> bool:
    """Whether nothing but the given layers combines channels of the group."""
    names = {one.layer.name for one in reading}
    return all(
        mix.kind == "sum" and (value := mix.node.inputs[mix.slot]) is not None and value.name in names
        for mix in combining(coupling, group)
    )


def _starts(plan: Plan, coupling: Coupling, group: Group, reading: Sequence[Consumption]) -> int:
    """The last boundary of the plan from which all that the group's channels do can be computed again.

    Layers that read them take their weights from outside; anything else has to lie behind the boundary.
    """
    names = {one.layer.name for one in reading}
    if is_clean(coupling, group, reading):
        there = (i for i, stage in enumerate(plan.stages) if any(y.name in names for y in stage.layers))
        return next(there, -1)
    for index in range(len(plan.stages)):
        if any(standing(coupling, group, name) for name in plan.boundary(index)):
            return index - 1
    return -1


def group_curves(
    runtime: Runtime,
    evidence: Evidence,
    plan: Plan,
    reference: Reference,
    *,
    criterion: Criterion,
    levels: Sequence[float],
    compensate: bool,
    budget: int,
    advance: Callable[[int], None],
    damaged: bool = False,
    branches: Mapping[int, Branch] | None = None,
) -> dict[int, Ranked]:
    """Order and damage curve of every group.

    Args:
        runtime: where everything runs.
        evidence: the model around, its channels and calibration data.
        plan: its stages.
        reference: what the outputs should be.
        criterion: ranks the channels of a group.
        levels: shares of the channels removed, rising.
        compensate: refit the layers that read the channels.
        budget: bytes of activations in memory.
        advance: called with 1 after each group.
        damaged: the model around differs from the dense one, what it is off by itself is subtracted.
        branches: groups that may go altogether.
    """
    model, coupling = evidence.model, evidence.coupling
    at: dict[int, list[Group]] = {}
    for group in coupling.groups:
        at.setdefault(_starts(plan, coupling, group, evidence.consumers(group)), []).append(group)
    testing = Walk(runtime, plan, reference.feeds, budget)
    found: dict[int, Ranked] = {}
    base = 0.0
    for index in range(-1, len(plan.stages)):
        for group in at.get(index, ()):
            reading = evidence.consumers(group)
            probe = _Probe(testing, model, coupling, group, reading, plan, reference)
            if damaged and not found:
                base = probe.base()

            def alone(group: Group, keep: Mask, probe: _Probe = probe) -> float:
                return probe(keep, compensated(evidence, evidence.consumers(group), keep, False))

            evidence.damage = alone
            order = np.argsort(criterion(evidence, group), kind="stable")
            counts = sorted({min(max(round(level * group.n), 1), group.n - 1) for level in levels})
            damages = []
            for count in counts:
                keep = np.ones(group.n, bool)
                keep[order[:count]] = False
                tensors = compensated(evidence, reading, keep, compensate)
                damages.append(max(probe(keep, tensors) - base, 0.0))
            gone = None
            if branches and group.id in branches:
                last = np.zeros(group.n, bool)
                last[order[-1]] = True
                tensors = emptied(model, evidence.layers, branches[group.id].layers)
                gone = max(probe(last, tensors) - base, 0.0)
            shares = tuple(count / group.n for count in counts)
            curve = Curve(group.n, shares, tuple(damages), (0.0,) * len(counts), gone=gone)
            found[group.id] = Ranked(order, curve)
            evidence.forget(group)
            advance(1)
        testing.step(model)
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

    def __call__(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        for axis, mask in self.stays(name):
            array = array.compress(mask, axis=axis)
        return array


def spread(coupling: Coupling, keep: Keep, tensors: Tensors) -> Tensors:
    """Initializers of a smaller model, put back into those of the dense one."""
    cutter = _Cutter(coupling, keep)
    found: Tensors = {}
    for name, small in tensors.items():
        array = stored(coupling.model, name).astype(np.float64)
        places = [np.arange(n) for n in array.shape]
        for axis, mask in cutter.stays(name):
            places[axis] = np.flatnonzero(mask)
        array[np.ix_(*places)] = small
        found[name] = array
    return found


def _is_depthwise(layer: Layer) -> bool:
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
) -> tuple[ir.Model, Tensors]:
    """Remove channels and refit what is left, layer by layer.

    Depthwise convolutions see one channel each and stay as they are.

    Args:
        runtime: where everything runs.
        coupling: of the dense model; the model is not changed.
        plan: stages of the layers to refit.
        fit: feeds that the moments come from.
        keep: channels that stay.
        fixed: names of layers that stay as they are.
        damping: of the second moments, relative.
        budget: bytes of activations in memory.
        advance: called with 1 after each layer.
        start: initializers of the dense model that the smaller one starts from instead of the dense ones.
        empty: names of layers that give zeros.

    Returns:
        The smaller model, and the initializers of it that were refitted.
    """
    dense = coupling.model
    small = SetWeights(start or {})(dense.clone()).model
    RemoveChannels(keep, coupling.of(small)).call(small)
    layers = {layer.name: layer for layer in find_layers(small)[0]}
    spared = set(fixed)
    prefixes = Prefixes(
        runtime, dense, plan, fit, budget, paired=True, cut=_Cutter(coupling, keep), start=small
    )
    refitted: Tensors = {}
    for number, stage in enumerate(plan.stages):
        there = [layers[layer.name] for layer in stage.layers if layer.name in layers]
        solved = [
            layer
            for layer in there
            if layer.name not in spared and layer.name not in empty and not _is_depthwise(layer)
        ]
        tensors = emptied(small, there, empty)
        if solved:
            prefixes.skip(number, small)
            moments = prefixes.pose(stage, solved, small, damping)
        for layer in solved:
            posed = LayerProblem(small, layer, *moments.pop(layer.name))
            with threads_for(layer.layout.goi[2]):
                tensors.update(posed.tensors(posed.problem.optimum))
        SetWeights(tensors)(small)
        refitted.update(tensors)
        if solved:
            prefixes.follow(small)
        advance(len(stage.layers))
    return small, refitted


def solve_alone(evidence: Evidence, keep: Mapping[int, Mask]) -> Tensors:
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
