"""What a criterion may look at to judge the channels of a group, each kind computed when first asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from scipy.sparse import csr_array

from obs_onnx.calibration.layer_problem import LayerProblem
from obs_onnx.calibration.layer_weights import LayerWeights, stored
from obs_onnx.calibration.second_moments import Moments
from obs_onnx.calibration.sequential_moments import SequentialMoments, posed_of
from obs_onnx.calibration.sharded_moments import sharded_moments
from obs_onnx.calibration.shelf import Shelf
from obs_onnx.cluster.executor import IN_TURN, Executor
from obs_onnx.criteria.gate_derivatives import GateDerivatives
from obs_onnx.criteria.reference_loss import LabelledBatches
from obs_onnx.criteria.weight_derivatives import WeightDerivatives
from obs_onnx.evaluation.measures.class_scores import rows_of
from obs_onnx.evaluation.measures.options import AUTO
from obs_onnx.io.scratch import let_go
from obs_onnx.passes.channels.coupling import Coupling, Group
from obs_onnx.passes.channels.places import consumed, standing
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.inputs import input_names
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.layers.stages import Plan
from obs_onnx.passes.ops.quantized.numbers import Numbers
from obs_onnx.runtimes.base import Runtime
from obs_onnx.runtimes.sessions.block_session import is_weighty
from obs_onnx.runtimes.sessions.partial_run import Values, open_part, run_feed

__all__ = ["ChannelStatistics", "Consumption", "Signal"]


_FACTORS = 4  # matrices of the size of its moments that a posed layer may have, and as many weights
_MOMENTS = 4  # share of the budget


def _bytes(layer: Layer) -> int:
    """What the problem of a layer takes at most once it is solved."""
    groups, rows, columns = layer.layout.goi
    return 8 * _FACTORS * groups * columns * (columns + rows)


def _apart(found: tuple[Moments, float]) -> list[NDArray[Any]]:
    moments, damping = found
    return [np.asarray(damping), *moments.arrays()]


def _together(arrays: list[NDArray[Any]]) -> tuple[Moments, float]:
    return Moments.of(arrays[1:]), float(arrays[0])


@dataclass(frozen=True)
class Consumption:
    """A layer that reads channels of a group.

    Attributes:
        layer: which one.
        columns: (channels, G * I) bool; the columns of ``w_GOI`` that go with each channel.
    """

    layer: Layer
    columns: csr_array


@dataclass
class Signal:
    """What a layer's input showed along one axis, per element of that axis.

    Attributes:
        samples, positions: how many there were; a sample has several positions.
        total, square, zeros: (C,) sums of the values, of their squares, and number of values that are zero.
        means: (samples, C) mean over the positions of each sample, gathered batch by batch.
    """

    samples: int = 0
    positions: int = 0
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(()))
    square: NDArray[np.float64] = field(default_factory=lambda: np.zeros(()))
    zeros: NDArray[np.float64] = field(default_factory=lambda: np.zeros(()))
    means: list[NDArray[np.float64]] = field(default_factory=list)

    def update(self, x: NDArray[np.generic], axis: int) -> None:
        """Add a batch whose first axis counts samples."""
        x_NPC = np.moveaxis(x, axis, -1).astype(np.float64)
        x_NPC = x_NPC.reshape(x.shape[0] if axis % x.ndim else 1, -1, x.shape[axis])
        self.samples += len(x_NPC)
        self.positions += x_NPC.shape[0] * x_NPC.shape[1]
        self.total = self.total + x_NPC.sum((0, 1))
        self.square = self.square + np.einsum("npc,npc->c", x_NPC, x_NPC)
        self.zeros = self.zeros + (x_NPC == 0).sum((0, 1))
        self.means.append(x_NPC.mean(1))


class ChannelStatistics:
    """A model and its calibration data, as criteria see them.

    Args:
        runtime: where the model runs.
        model: prepared.
        coupling: its channels.
        layers: its layers; those that no output needs are not in the plan and do not count.
        plan: stages of these layers.
        fit: feeds; labels count for criteria of the loss where a source has them.
        budget: bytes of activations in memory.
        damping: of the second moments, relative.
        seed: of what is random.
        executor: who gathers moments, where several processes can.
        memory: bytes that these may take then in all.
    """

    def __init__(
        self,
        runtime: Runtime,
        model: ir.Model,
        coupling: Coupling,
        layers: Iterable[Layer],
        plan: Plan,
        fit: Iterable[Values],
        *,
        budget: int,
        damping: float,
        seed: int = 0,
        task: str = AUTO,
        executor: Executor = IN_TURN,
        memory: int = 0,
    ) -> None:
        planned = {layer.name for stage in plan.stages for layer in stage.layers}
        self.model, self.coupling = model, coupling
        self.layers = tuple(layer for layer in layers if layer.name in planned)
        self.seed = seed
        self._runtime, self._plan, self._fit = runtime, plan, fit
        self._budget, self._damping = budget, damping
        self._executor, self._memory = executor, memory
        self._posed: dict[str, LayerProblem] = {}
        self._columns: dict[int, list[Consumption]] = {}
        self._lessons = LabelledBatches(runtime, model, fit, seed, task)
        self._changes: dict[str, dict[str, NDArray[np.float64]]] = {}
        self._numbers = Numbers(coupling.graph)

    def consumers(self, group: Group) -> list[Consumption]:
        """Layers that read channels of ``group``, each column for one channel only."""
        if group.id not in self._columns:
            found = [(layer, consumed(self.coupling, group, layer)) for layer in self.layers]
            self._columns[group.id] = [
                Consumption(layer, columns)
                for layer, columns in found
                if columns is not None and columns.sum(axis=0).max() <= 1
            ]
        return self._columns[group.id]

    def posed(self, layer: Layer) -> LayerProblem:
        """The least-squares problem of a layer on the model's own inputs."""
        if layer.name not in self._posed:
            self._posed[layer.name] = LayerProblem(
                LayerWeights.of(self.model, layer), *self.moments[layer.name]
            )
            sizes = {name: _bytes(posed.layer) for name, posed in self._posed.items()}
            for name in list(sizes)[:-1]:
                if sum(sizes.values()) > self._budget:
                    del self._posed[name], sizes[name]
        return self._posed[layer.name]

    def forget(self, group: Group) -> None:
        """Free the problems of the group's consumers; they are set up again when asked for."""
        for consumption in self.consumers(group):
            self._posed.pop(consumption.layer.name, None)

    @cached_property
    def moments(self) -> Mapping[str, tuple[Moments, float]]:
        """Second moments of the inputs of all layers that read channels, and damping; one pass of data."""
        reading = {c.layer.name for group in self.coupling.groups for c in self.consumers(group)}
        found = Shelf[tuple[Moments, float]](self._budget // _MOMENTS, _apart, _together)
        if (shared := self._shared(reading)) is not None:
            for layer in self.layers:
                if layer.name in shared:
                    first, second = shared.pop(layer.name)
                    found[layer.name] = posed_of(layer, (first, second), self.model, self._damping)
            return found
        prefixes = SequentialMoments(
            self._runtime, self.model, self._plan, self._fit, self._budget, paired=False, halves=True
        )
        mapped = is_weighty(self.model)
        for stage in self._plan.stages:
            layers = [layer for layer in stage.layers if layer.name in reading]
            posed = prefixes.pose(stage, layers, self.model, self._damping)
            for name in list(posed):
                found[name] = posed.pop(name)
            if mapped:
                let_go(self.model)
        return found

    def _shared(self, names: Collection[str]) -> dict[str, list[Moments]] | None:
        """Moments of two halves of the data that other processes gathered, where there are some."""
        layers = [layer for layer in self.layers if layer.name in names]
        return sharded_moments(
            self._runtime, self.model, self._plan, self._fit, layers,
            told_apart=True, executor=self._executor, memory=self._memory,
        )  # fmt: skip

    def signal(self, group: Group) -> list[tuple[Signal, csr_array]]:
        """Inputs of the group's consumers, each with the elements (channels, C) that go with each channel."""
        return [
            (self._signals[name, axis], self.coupling.incidence(group, name, axis))
            for name, axis in self._inputs(group)
        ]

    def _inputs(self, group: Group) -> list[tuple[str, int]]:
        names = dict.fromkeys(use.x for one in self.consumers(group) for use in one.layer.uses)
        return [(name, axis) for name in names for axis in standing(self.coupling, group, name)]

    @cached_property
    def _signals(self) -> dict[tuple[str, int], Signal]:
        places = list(dict.fromkeys(p for group in self.coupling.groups for p in self._inputs(group)))
        found = {place: Signal() for place in places}
        names = input_names(self.model)
        wanted = list(dict.fromkeys(name for name, _ in places if name not in names))
        session = None
        for feed in self._fit:
            if session is None and wanted:
                session = open_part(self._runtime, extract(self.model, names, wanted), feed)
            values = {**feed, **(run_feed(session, feed) if session is not None else {})}
            for (name, axis), signal in found.items():
                signal.update(values[name], axis)
        return found

    @cached_property
    def classes(self) -> NDArray[np.int64] | None:
        """Class of each sample as the model sees it (largest score), or None without class scores."""
        names = input_names(self.model)
        outputs = [str(value.name) for value in self.model.graph.outputs]
        teacher = self._lessons.teacher
        session, found = None, []
        for feed in self._fit:
            session = session or open_part(self._runtime, extract(self.model, names, outputs), feed)
            answer = run_feed(session, feed)
            if not teacher.classes:
                return None
            found.append(rows_of(answer[teacher.output]).argmax(axis=1))
        return np.concatenate(found)

    @cached_property
    def gates(self) -> GateDerivatives:
        """Derivatives of the loss with respect to gates of the channels."""
        return GateDerivatives(self._lessons, self.model, self.coupling, self._plan, self._budget)

    @cached_property
    def removals(self) -> Mapping[int, NDArray[np.float64]]:
        """Change of the loss when a channel alone is removed without compensation, by group: (channels,)."""
        return self.gates.removals()

    def weight_changes(self, kind: str, group: Group) -> NDArray[np.float64]:
        """(channels,) absolute change of the loss by all weights that go with a channel, mean over batches.

        Args:
            kind: of the terms that are summed, see :mod:`obs_onnx.criteria.weight_derivatives`.
            group: which one.

        Raises:
            GradientError: the model cannot be differentiated.
        """
        if kind not in self._changes:
            names = {layer.name for layer in self.layers}
            names.update(site.initializer for one in self.coupling.groups for site in one.sites)
            terms = WeightDerivatives(self._lessons, sorted(names), self.seed)
            self._changes[kind] = terms.mean_absolute(kind, self._by_channel)
        return self._changes[kind][str(group.id)]

    def _by_channel(self, terms: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
        """Sums over all that goes with each channel, by the number of its group."""
        found = {}
        for group in self.coupling.groups:
            found[str(group.id)] = np.zeros(group.n)
            for site in group.sites:
                if site.initializer in terms:
                    rows = np.moveaxis(terms[site.initializer], site.axis, 0)
                    incidence = self.coupling.incidence(group, site.initializer, site.axis)
                    found[str(group.id)] += incidence @ rows.reshape(len(rows), -1).sum(1)
        return found

    def weights(self, group: Group) -> Iterator[tuple[NDArray[np.float64], csr_array]]:
        """Numbers of initializers the group stands in: (elements, rest) and (channels, elements).

        Integers are the weights that they stand for, and their scales are none.
        """
        forms = {layer.name: layer for layer in self.layers if layer.integers is not None}
        scales = {name for one in forms.values() if one.integers for name in one.integers.names[1:]}
        for site in group.sites:
            if site.initializer in scales:
                continue
            layer = forms.get(site.initializer)
            if layer is not None and layer.integers is not None:
                array: NDArray[np.float64] | None = layer.integers.opened(
                    LayerWeights.of(self.model, layer).weight
                )
            else:
                array = self._numbers.of(site.initializer, stored(self.model, site.initializer))
            if array is None:
                continue
            rows = np.moveaxis(array, site.axis, 0).reshape(array.shape[site.axis], -1)
            yield rows, self.coupling.incidence(group, site.initializer, site.axis)
