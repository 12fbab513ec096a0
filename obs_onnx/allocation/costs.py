"""What a model costs: measured on a model, and predicted from how many channels each group keeps.

One :class:`ModelCost` for each target that limits a cost (:mod:`obs_onnx.allocation.targets`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import onnx_ir as ir

from obs_onnx.io.onnx_file import file_size
from obs_onnx.passes.canonical.plainer.integer_layers import opened
from obs_onnx.passes.channels.coupling import Coupling
from obs_onnx.passes.costs.memory import Memory, Peak
from obs_onnx.passes.costs.model_costs import Cost, Costs
from obs_onnx.passes.layers.parameters import parameters

__all__ = [
    "LATENCY",
    "MACS",
    "PARAMS",
    "RAM",
    "SIZE",
    "Clock",
    "Measured",
    "ModelCost",
    "Predicted",
    "Run",
    "at_most",
]


class Run(Protocol):
    """What one run of a model on one sample takes; see :class:`obs_onnx.evaluation.run_cost.RunCost`."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""

    @property
    def peak(self) -> Peak:
        """Memory of activations."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of every value, by name."""


class Clock(Protocol):
    """Times models against the dense one; see :class:`obs_onnx.latency.Stopwatch`."""

    @property
    def dense_ms(self) -> float:
        """Milliseconds of the dense model."""

    def ratio(self, model: ir.Model) -> float:
        """Latency of a model divided by the dense one's."""


@dataclass(frozen=True)
class Measured:
    """A model as it is.

    Attributes:
        model: all of it.
        run: of it, or of the part of it that is measured.
        file_bytes: size of its file; None for a model that is in none yet.
        clock: times models, where latency is wanted.
        timed: as much of the model as can be run; None for all of it.
        ram_bytes: that a run needs, where something else than the program tells.
    """

    model: ir.Model
    run: Run
    file_bytes: int | None = None
    clock: Clock | None = None
    timed: ir.Model | None = None
    ram_bytes: float | None = None


@dataclass(frozen=True)
class Predicted:
    """A model as a function of how many channels each group keeps.

    Attributes:
        coupling: of the model.
        sizes: bytes of every value of a run on one sample with all channels, by name.
        latency: milliseconds of a run, where they are known.
    """

    coupling: Coupling
    sizes: Mapping[str, int]
    latency: Cost | None = None

    @cached_property
    def costs(self) -> Costs:
        """Polynomials of the counts."""
        return Costs(self.coupling)

    @cached_property
    def memory(self) -> Memory:
        """Of activations."""
        return Memory(self.coupling, self.sizes)


@dataclass(frozen=True)
class ModelCost:
    """Something that a model costs.

    Attributes:
        measure: of a model, in the unit of the cost.
        predict: the same as a function of kept counts, or a memory of which the peak counts.
        compare: of a model and the dense one, as a share of the dense one's.
    """

    measure: Callable[[Measured], float]
    predict: Callable[[Predicted], Cost | Memory]
    compare: Callable[[Measured, Measured], float] | None = None

    def share(self, small: Measured, dense: Measured) -> float:
        """What a model costs as a share of the dense one's; 1 where that one costs nothing."""
        if self.compare is not None:
            return self.compare(small, dense)
        before = self.measure(dense)
        return self.measure(small) / before if before else 1.0


def at_most(cost: Cost | Memory, limit: float) -> Iterator[tuple[Cost, float]]:
    """What must hold so that a predicted cost is at most ``limit``: costs, and the limit of each."""
    if isinstance(cost, Memory):
        yield from cost.limits(limit)
    else:
        yield cost, limit


def _parameters(measured: Measured) -> int:
    return sum(one.size for one in parameters(opened(measured.model)))


def _file_bytes(measured: Measured) -> float:
    return float(file_size(measured.model) if measured.file_bytes is None else measured.file_bytes)


def _ram(measured: Measured) -> float:
    return measured.run.peak.bytes if measured.ram_bytes is None else measured.ram_bytes


def _dense_ms(measured: Measured) -> float:
    """Milliseconds of the dense model, the only one that is timed for itself."""
    assert measured.clock is not None
    return measured.clock.dense_ms


def _timed(small: Measured, dense: Measured) -> float:
    assert dense.clock is not None
    return dense.clock.ratio(small.model if small.timed is None else small.timed)


def _latency(predicted: Predicted) -> Cost:
    assert predicted.latency is not None
    return predicted.latency


MACS = ModelCost(lambda one: one.run.macs, lambda one: one.costs.macs)
PARAMS = ModelCost(_parameters, lambda one: one.costs.params)
SIZE = ModelCost(_file_bytes, lambda one: one.costs.bytes)
RAM = ModelCost(_ram, lambda one: one.memory)
LATENCY = ModelCost(_dense_ms, _latency, _timed)
