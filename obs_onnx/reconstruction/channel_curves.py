"""Damage curves of groups of channels: each one alone at several counts, measured at the outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.allocation.curves import Curve, Mask, Ranked
from obs_onnx.calibration.layer_weights import LayerWeights, Tensors, is_feedable, names_of, stored
from obs_onnx.calibration.staged_run import Part, StagedRun
from obs_onnx.criteria.channel_statistics import ChannelStatistics, Consumption
from obs_onnx.criteria.ranking import Ranking
from obs_onnx.evaluation.measures.output_damage import Damage
from obs_onnx.evaluation.measures.yardstick import Yardstick
from obs_onnx.io.scratch import array_outside, let_go, put_away
from obs_onnx.passes.channels.branches import Branch
from obs_onnx.passes.channels.coupling import Coupling, Group
from obs_onnx.passes.channels.places import combining, standing
from obs_onnx.passes.channels.silence import silence
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.layers.stages import Plan
from obs_onnx.reconstruction.channels import emptied
from obs_onnx.runtimes.base import Runtime
from obs_onnx.runtimes.on_device import also
from obs_onnx.runtimes.sessions.block_session import is_weighty
from obs_onnx.runtimes.sessions.partial_run import Values
from obs_onnx.solvers.blas_threads import threads_for
from obs_onnx.solvers.structured_obs import refit_columns
from obs_onnx.work.work_folder import NOWHERE, Work

__all__ = ["Reference", "compensated", "group_curves", "is_clean", "starts"]


_NOTHING = 1e-12  # damage that rounding makes, and share of the largest score that says nothing
_HELD_BYTES = 1 << 26  # weights of all choices of channels that stay in memory
_OUTSIDE_BYTES = 1 << 32  # that lie in files, unless one choice takes more
_RUINED = 1e9  # damage of outputs that are no numbers any more


@dataclass(frozen=True)
class Reference:
    """Held-out feeds, and the dense model's outputs for them, to be gone through again and again."""

    feeds: Iterable[Values]
    outputs: Iterable[Values]
    yardstick: Yardstick


def compensated(
    evidence: ChannelStatistics, reading: Sequence[Consumption], keeps: Sequence[Mask], compensate: bool
) -> list[Tensors]:
    """Weights and biases of the layers that read a group, without the columns of removed channels.

    They are in the type in which the model holds them; where they are many, they lie outside of memory.

    Args:
        evidence: the model and its calibration data.
        reading: the layers; each is posed once.
        keeps: channels that stay, for each choice.
        compensate: refit the layers.

    Returns:
        Initializers by name, for each choice.
    """
    chosen: list[Tensors] = [{} for _ in keeps]
    outside = len(keeps) * _weight_bytes(evidence, reading) > _HELD_BYTES
    for one in reading:
        for tensors, keep in zip(chosen, keeps, strict=True):
            gone = np.asarray(one.columns[~keep].sum(axis=0)).reshape(-1) > 0
            for name, array in _without(evidence, one.layer, gone, compensate).items():
                narrow = array.astype(stored(evidence.model, name).dtype, copy=False)
                tensors[name] = array_outside(narrow) if outside else narrow
    return chosen


def _weight_bytes(evidence: ChannelStatistics, reading: Sequence[Consumption]) -> int:
    return sum(stored(evidence.model, one.layer.name).nbytes for one in reading)


def _without(evidence: ChannelStatistics, layer: Layer, gone: NDArray[np.bool_], compensate: bool) -> Tensors:
    """Weight and bias of a layer without (G * I,) columns."""
    if not compensate:
        held = LayerWeights.of(evidence.model, layer)
        groups, _, columns = layer.layout.goi
        return held.tensors(np.where(gone.reshape(groups, 1, columns), 0.0, held.w_GOI))
    posed = evidence.posed(layer)
    with threads_for(layer.layout.goi[2]):
        return posed.tensors(refit_columns(posed.problem, ~gone))


class _Probe:
    """Measures removal of channels of one group, everything else as it is.

    Where layers alone combine the channels, columns of zeros in their weights silence them and one session
    serves all masks; otherwise (normalisation, products of activations) each mask needs a session of its own.
    """

    def __init__(
        self,
        testing: StagedRun,
        model: ir.Model,
        coupling: Coupling,
        group: Group,
        reading: Sequence[Consumption],
        plan: Plan,
        reference: Reference,
    ) -> None:
        self._testing, self._model, self._group, self._plan = testing, model, group, plan
        self._reference, self._coupling = reference, coupling
        layers = [one.layer for one in reading]
        self._clean = is_clean(coupling, group, reading)
        self._fed = [name for layer in layers for name in names_of(layer)]
        self._dense = {name: stored(model, name) for name in self._fed}
        fed = self._clean and all(map(is_feedable, layers))
        self._run = testing.part(model, plan.outputs, self._fed) if fed else None

    def __call__(self, keep: Mask, tensors: Tensors) -> float:
        """Damage with the channels of ``keep`` and these weights of the layers that read them."""
        if self._run is not None:
            values = {
                name: tensors[name].astype(dense.dtype, copy=False) if name in tensors else dense
                for name, dense in self._dense.items()
            }
            return self._damage(self._run, values)
        model = (
            self._model.clone()
            if self._clean
            else silence(self._model, {self._group.id: keep}, self._coupling)
        )
        silenced = SetWeights(tensors)(model).model
        if is_weighty(self._model):
            put_away(silenced)
        return self._damage(self._testing.part(silenced, self._plan.outputs), {})

    def base(self) -> float:
        """Damage with all channels and weights as they are."""
        return self._damage(self._testing.part(self._model, self._plan.outputs), {})

    def _damage(self, run: Part, values: Values) -> float:
        damage = Damage(self._reference.yardstick, self._plan.outputs)
        found = run.each(also(batch, values) for batch in self._testing)
        for expected, changed in zip(self._reference.outputs, found, strict=True):
            damage.update(expected, changed)
        return damage.value if damage.value < _RUINED else _RUINED  # whatever is no number, too


def is_clean(coupling: Coupling, group: Group, reading: Sequence[Consumption]) -> bool:
    """Whether nothing but the given layers combines channels of the group."""
    nodes = {use.node for one in reading for use in one.layer.uses}
    return all(mix.kind == "sum" and mix.node.name in nodes for mix in combining(coupling, group))


def starts(plan: Plan, coupling: Coupling, group: Group, reading: Sequence[Consumption]) -> int:
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


@dataclass(frozen=True)
class _Measuring:
    """How the curve of each group is measured; see :func:`group_curves`."""

    evidence: ChannelStatistics
    rank: Ranking
    levels: Sequence[float]
    compensate: bool
    branches: Mapping[int, Branch]
    free: Mapping[int, NDArray[np.int64]]
    normed: Mapping[int, Collection[str]]

    def ranked(self, group: Group, probe: _Probe, base: float) -> Ranked:
        """Order and curve of a group; ``base`` is the damage with all its channels."""
        reading = self.evidence.consumers(group)

        def alone(keep: Mask) -> float:
            return probe(keep, compensated(self.evidence, reading, [keep], False)[0])

        def damages(counts: Sequence[int]) -> list[float]:
            keeps, found = list[Mask](), list[float]()
            for count in counts:
                keeps.append(np.ones(group.n, bool))
                keeps[-1][order[:count]] = False
            step = max(1, _OUTSIDE_BYTES // max(_weight_bytes(self.evidence, reading), 1))
            for some in (keeps[first : first + step] for first in range(0, len(keeps), step)):
                tensors = compensated(self.evidence, reading, some, self.compensate)
                self._lengthened(group, reading, some, tensors)
                found += [max(probe(*one) - base, 0.0) for one in zip(some, tensors, strict=True)]
            return [
                y if y > _NOTHING and count > len(free) else 0.0
                for count, y in zip(counts, found, strict=True)
            ]

        free, scores = self.free.get(group.id, np.zeros(0, np.int64)), self.rank(group, alone)
        scores = np.asarray(scores, np.float64)
        order = np.argsort(np.where(np.isin(np.arange(group.n), free), -np.inf, scores), kind="stable")
        wanted = {min(max(round(level * group.n), 1), group.n - 1) for level in self.levels}
        if scores.min() <= _NOTHING * scores.max():
            wanted.add(1)
        counts = sorted(wanted)
        points = dict(zip(counts, damages(counts), strict=True))
        points = _to_the_edge(points, lambda count: damages([count])[0], group.n - 1)
        gone = None
        if group.id in self.branches:
            last = np.zeros(group.n, bool)
            last[order[-1]] = True
            layers = self.branches[group.id].layers
            gone = max(probe(last, emptied(self.evidence.model, self.evidence.layers, layers)) - base, 0.0)
        shares = tuple(count / group.n for count in points)
        return Ranked(order, Curve(group.n, shares, tuple(points.values()), (0.0,) * len(points), gone=gone))

    def _lengthened(
        self, group: Group, reading: Sequence[Consumption], keeps: Sequence[Mask], found: Sequence[Tensors]
    ) -> None:
        """Make up, in layers behind a norm, for the other length of the vector that it divides by.

        It becomes that of what stays, over fewer channels: ``sqrt(share of the squares * n / k)`` times what
        it was.
        """
        for one in reading:
            if not self.compensate or one.layer.name not in self.normed.get(group.id, ()):
                continue
            moments = self.evidence.moments[one.layer.name][0].raw().h
            energy = np.asarray(one.columns @ np.diagonal(moments, axis1=1, axis2=2).reshape(-1))
            for keep, tensors in zip(keeps, found, strict=True):
                share = float(energy[keep].sum() / (energy.sum() or 1.0))
                factor = np.sqrt(share * group.n / keep.sum())
                tensors[one.layer.name] = tensors[one.layer.name] * tensors[one.layer.name].dtype.type(factor)


def _to_the_edge(points: dict[int, float], damage: Callable[[int], float], most: int) -> dict[int, float]:
    """Damages by count, rising, with the last count that does none and the one after it, if any does none."""
    low = max((count for count, found in points.items() if found == 0), default=0)
    high = min((count for count in points if count > low), default=most + 1)
    while low and high - low > 1:
        middle = (low + high) // 2
        points[middle] = damage(middle)
        low, high = (middle, high) if points[middle] == 0 else (low, middle)
    return dict(sorted(points.items()))


def group_curves(
    runtime: Runtime,
    evidence: ChannelStatistics,
    plan: Plan,
    reference: Reference,
    *,
    rank: Ranking,
    levels: Sequence[float],
    compensate: bool,
    budget: int,
    advance: Callable[[int], None],
    damaged: bool = False,
    branches: Mapping[int, Branch] | None = None,
    free: Mapping[int, NDArray[np.int64]] | None = None,
    normed: Mapping[int, Collection[str]] | None = None,
    only: Collection[int] | None = None,
    work: Work = NOWHERE,
) -> dict[int, Ranked]:
    """Order and damage curve of every group.

    Args:
        runtime: where everything runs.
        evidence: the model around, its channels and calibration data.
        plan: its stages.
        reference: what the outputs should be.
        rank: scores of the channels of a group; it may measure removals.
        levels: shares of the channels removed, rising.
        compensate: refit the layers that read the channels.
        budget: bytes of activations in memory.
        advance: called with 1 after each group.
        damaged: the model around differs from the dense one, what it is off by itself is subtracted.
        branches: groups that may go altogether.
        free: channels that change nothing, by group; they go first.
        normed: layers behind a norm over the channels of a group, without a scale per channel, by group.
        only: groups that are wanted; None for all.
        work: where measured curves are kept.
    """
    model, coupling = evidence.model, evidence.coupling
    at: dict[int, list[Group]] = {}
    for group in coupling.groups:
        if only is not None and group.id not in only:
            continue
        at.setdefault(starts(plan, coupling, group, evidence.consumers(group)), []).append(group)
    ordered = [group for index in range(-1, len(plan.stages)) for group in at.get(index, ())]
    scope = {one: branch.layers for one, branch in (branches or {}).items()}
    work = work.stage(
        "damage of channels", model, list(levels), compensate, damaged, scope, free or {}, normed or {}
    )
    known = work.known(Ranked, [str(group.id) for group in ordered])
    if len(known) == len(ordered):
        advance(len(ordered))
        return {group.id: known[str(group.id)] for group in ordered}
    measuring = _Measuring(evidence, rank, levels, compensate, branches or {}, free or {}, normed or {})
    testing = StagedRun(runtime, plan, reference.feeds, budget)
    base: float | None = None if damaged else 0.0

    def probe(group: Group) -> _Probe:
        return _Probe(testing, model, coupling, group, evidence.consumers(group), plan, reference)

    def curve(group: Group, base: float) -> Ranked:
        found = measuring.ranked(group, probe(group), base)
        evidence.forget(group)
        if is_weighty(model):
            let_go(model)
        return found

    advance(len(known))
    for index in range(-1, len(plan.stages)):
        ahead = [group for group in at.get(index, ()) if str(group.id) not in known]
        if ahead:
            base = work.one(float, "base", probe(ahead[0]).base) if base is None else base
            tasks = {str(group.id): partial(curve, group, base) for group in ahead}
            known.update(work.finish(Ranked, tasks, lambda: advance(1)))
        testing.step(model)
    return {group.id: known[str(group.id)] for group in ordered}
