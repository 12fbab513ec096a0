"""Derivatives of the loss with respect to gates of channels (see :mod:`obs_onnx.passes.channels.gates`).

First derivatives come from one pass over the data, for all channels and for each example by itself. Second
derivatives are exact: the diagonal of the Hessian, one product with the Hessian per channel and batch. What
lies before a group is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.calibration.staged_run import StagedRun
from obs_onnx.criteria.reference_loss import LABELS, Aim, LabelledBatches, Lesson
from obs_onnx.passes.autodiff.gradient import Gradient, HessianVectorProduct
from obs_onnx.passes.channels.coupling import Coupling, Group
from obs_onnx.passes.channels.gates import GatePlace, gate_groups, gate_places
from obs_onnx.passes.channels.silence import silence
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.inputs import input_names
from obs_onnx.passes.layers.stages import Plan
from obs_onnx.runtimes.sessions.partial_run import Values, open_part, run_feed
from obs_onnx.work.work_folder import NOWHERE, Work

__all__ = ["Curvature", "GateDerivatives", "GateGradients"]

Float = NDArray[np.float64]

_SMALL, _LARGE = 32, 128  # examples per batch of a backward pass, and of one behind the start of a group
_MOST = 2048  # examples for second derivatives and removals, which take one run for every channel


@dataclass
class GateGradients:
    """First derivatives with respect to the gates of a group, over examples.

    Attributes:
        examples: sum of their weights.
        total, absolute, square: (channels,) sums of the derivatives, their absolute values and their squares.
    """

    examples: float
    total: Float
    absolute: Float
    square: Float

    def update(self, g_Nn: Float, weights_N: Float) -> None:
        """Add examples."""
        self.examples += float(weights_N.sum())
        self.total += weights_N @ g_Nn
        self.absolute += weights_N @ np.abs(g_Nn)
        self.square += weights_N @ np.square(g_Nn)


@dataclass(frozen=True)
class Curvature:
    """Derivatives of the mean loss with respect to the gates of a group.

    Attributes:
        gradient, diagonal: (channels,) first and second derivatives.
    """

    gradient: Float
    diagonal: Float


class GateDerivatives:
    """Gates of all channels of a model.

    Args:
        lessons: the model, its data and its loss.
        model: the one that ``coupling`` and ``plan`` belong to.
        coupling: its channels.
        plan: its stages.
        budget: bytes of activations in memory.
    """

    def __init__(
        self, lessons: LabelledBatches, model: ir.Model, coupling: Coupling, plan: Plan, budget: int
    ) -> None:
        self._lessons, self._model, self._coupling, self._plan = lessons, model, coupling, plan
        self._budget = budget
        self._gradients: dict[Aim, dict[int, GateGradients]] = {}

    def sees(self, group: Group) -> bool:
        """Whether channels of the group are summed anywhere, so that derivatives say something about them."""
        return bool(self._places[group.id])

    def gradients(self, group: Group, aim: Aim = "noisy") -> GateGradients:
        """First derivatives for each example.

        Args:
            group: which one.
            aim: of the targets, see :mod:`obs_onnx.criteria.reference_loss`.

        Raises:
            GradientError: the model cannot be differentiated.
        """
        if aim not in self._gradients:
            self._gradients[aim] = self._first(aim)
        return self._gradients[aim][group.id]

    @cached_property
    def curvatures(self) -> Mapping[int, Curvature]:
        """First and second derivatives of the mean loss, by group.

        Raises:
            GradientError: the model cannot be differentiated.
        """
        found: dict[int, Curvature] = {}
        for group, walk, lessons in self._behind():
            gate, places = _name(group), self._places[group.id]
            if not places:
                found[group.id] = Curvature(np.zeros(group.n), np.zeros(group.n))
                continue
            model = self._lessons.model.clone()
            gate_groups(model, {gate: (group.n, places)})
            HessianVectorProduct(self._lessons.teacher.append(model), [gate]).call(model)
            wanted = [f"{gate}.grad", f"{gate}.hvp"]
            run = walk.part(model, wanted, [gate, f"{gate}.v", LABELS])
            g, h, samples = np.zeros(group.n), np.zeros(group.n), 0
            for number, lesson in enumerate(lessons):
                fed = {gate: self._ones(model, gate, group.n), LABELS: lesson.targets}
                for channel, v in enumerate(np.eye(group.n, dtype=fed[gate].dtype)):
                    got = run({**walk[number], **fed, f"{gate}.v": v})
                    h[channel] += lesson.samples * float(got[f"{gate}.hvp"][channel])
                    if channel == 0:
                        g += lesson.samples * got[f"{gate}.grad"].astype(np.float64)
                samples += lesson.samples
            found[group.id] = Curvature(g / samples, h / samples)
        return found

    def removals(
        self, advance: Callable[[int], None] = lambda done: None, work: Work = NOWHERE
    ) -> dict[int, Float]:
        """Change of the mean loss when each channel alone is silenced, by group: (channels,).

        Args:
            advance: called with 1 after each channel.
            work: where the changes of groups are kept.
        """
        work = work.stage("removals", self._model)
        known = work.known(np.ndarray, [_name(group) for group in self._coupling.groups])
        found = {group.id: known[_name(group)] for group in self._coupling.groups if _name(group) in known}
        advance(sum(map(len, found.values())))
        if len(found) == len(self._coupling.groups):
            return found
        for group, walk, lessons in self._behind():
            if group.id not in found:
                task = partial(self._removal, group, walk, lessons, advance)
                found[group.id] = work.one(np.ndarray, _name(group), task)
        return found

    def _removal(
        self, group: Group, walk: StagedRun, lessons: Sequence[Lesson], advance: Callable[[int], None]
    ) -> Float:
        """The same of one group, whose gates lie behind the boundary at which ``walk`` stands."""
        teacher = self._lessons.teacher
        gate, places = _name(group), self._places[group.id]
        model = self._lessons.model.clone()
        exact = bool(places) and self._only_sums(group)
        if exact:
            gate_groups(model, {gate: (group.n, places)})
            gated = walk.part(model, [teacher.output], [gate])
        total, samples = np.zeros(group.n), sum(lesson.samples for lesson in lessons)
        base = sum(lesson.samples * teacher.loss(lesson.dense, lesson.targets) for lesson in lessons)
        for channel, keep in enumerate(~np.eye(group.n, dtype=bool)):
            fed: Values = {}
            if exact:
                run, fed = gated, {gate: keep.astype(self._ones(model, gate, group.n).dtype)}
            else:
                silent = silence(self._model, {group.id: keep}, self._coupling)
                run = walk.part(silent, [teacher.output])
            for number, lesson in enumerate(lessons):
                y = run({**walk[number], **fed})[teacher.output]
                total[channel] += lesson.samples * teacher.loss(y, lesson.targets)
            advance(1)
        return (total - base) / samples

    @cached_property
    def _places(self) -> Mapping[int, list[GatePlace]]:
        return {group.id: gate_places(self._coupling, group) for group in self._coupling.groups}

    def _only_sums(self, group: Group) -> bool:
        """Whether a gate of zero is the same as silencing the channel."""
        return all(
            mix.kind == "sum" for mix in self._coupling.graph.mixes if self._coupling.has(group, mix.labels)
        )

    def _first(self, aim: Aim) -> dict[int, GateGradients]:
        groups = [group for group in self._coupling.groups if self._places[group.id]]
        gates = {_name(group): (group.n, self._places[group.id]) for group in groups}
        model = self._lessons.model.clone()
        by_example = gate_groups(model, gates, per_example=True)
        if not by_example:
            gate_groups(model, gates)
        Gradient(self._lessons.teacher.append(model), list(gates), unconnected="zeros").call(model)
        wanted = [f"{gate}.grad" for gate in gates]
        inputs = input_names(model)
        constant = {} if by_example else {gate: self._ones(model, gate, n) for gate, (n, _) in gates.items()}
        found = {
            group.id: GateGradients(0.0, *(np.zeros(group.n) for _ in range(3)))
            for group in self._coupling.groups
        }
        session = None
        for lesson in self._lessons.batches(_SMALL if by_example else 1, aim):
            fed = {**lesson.feed, **constant, LABELS: lesson.targets}
            session = session or open_part(self._lessons.runtime, extract(model, inputs, wanted), fed)
            got = run_feed(session, fed, wanted)
            for group in groups:
                g = got[f"{_name(group)}.grad"].astype(np.float64)
                if by_example:
                    found[group.id].update(g * lesson.samples, lesson.weights)
                else:
                    found[group.id].update(g[None], lesson.weights.mean(keepdims=True))
        return found

    def _behind(self) -> Iterator[tuple[Group, StagedRun, Sequence[Lesson]]]:
        """Groups, each with the data carried to the last boundary in front of its gates."""
        lessons = list(self._lessons.batches(_LARGE, most=_MOST))
        walk = StagedRun(self._lessons.runtime, self._plan, [lesson.feed for lesson in lessons], self._budget)
        starts = self._starts()
        for index in range(-1, len(self._plan.stages)):
            for group in self._coupling.groups:
                if starts[group.id] == index:
                    yield group, walk, lessons
            if index < max(starts.values(), default=-1):
                walk.step(self._lessons.model)

    def _starts(self) -> dict[int, int]:
        """The last boundary of the plan behind which all combinations of the group's channels lie."""
        nodes = {str(node.name) for node in self._model.graph}
        before = [_above(self._model, stage.live) for stage in self._plan.stages]
        found = {}
        for group in self._coupling.groups:
            own = {place.node for place in self._places[group.id]}
            own |= {
                str(mix.node.name)
                for mix in self._coupling.graph.mixes
                if self._coupling.has(group, mix.labels)
            }
            free = [index for index, above in enumerate(before) if not own & above & nodes]
            found[group.id] = max(free, default=-1)
        return found

    def _ones(self, model: ir.Model, gate: str, n: int) -> NDArray[np.generic]:
        value = next(value for value in model.graph.inputs if value.name == gate)
        assert value.dtype is not None
        return np.ones(n, value.dtype.numpy())


def _name(group: Group) -> str:
    return f"gate.{group.id}"


def _above(model: ir.Model, names: Iterable[str]) -> set[str]:
    """Names of the nodes from which these values are computed."""
    values = {str(y.name): node for node in model.graph for y in node.outputs}
    stack = [values[name] for name in names if name in values]
    found: set[str] = set()
    while stack:
        node = stack.pop()
        if str(node.name) in found:
            continue
        found.add(str(node.name))
        stack += [p for x in node.inputs if x is not None and (p := x.producer()) is not None]
    return found
