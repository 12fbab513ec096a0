"""What one run of a model takes: multiply-accumulates, memory of activations, bytes of every value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from obs_onnx.passes.costs.macs import in_integers, macs_per_node
from obs_onnx.passes.costs.memory import Peak, lifetimes, peak_memory
from obs_onnx.runtimes import Runtime
from obs_onnx.runtimes.sessions.partial_run import Values, every_value

__all__ = ["FEW_SAMPLES", "MOST_SAMPLES", "RunCost", "measured"]

MOST_SAMPLES = 128  # in one run
FEW_SAMPLES = 8  # where several are looked at together, and memory allows it
_LARGEST = 16 << 20  # bytes of a value; larger arrays are mapped anew in every run by most allocators
_SHARE = 4  # of the memory, that all values of a run may take


@dataclass(frozen=True)
class RunCost:
    """What one run takes.

    Attributes:
        macs: multiply-accumulates.
        integer_macs: of them, those that may be computed in integers.
        peak: memory of activations.
        sizes: bytes of every value, by name.
        activations: of them, bytes of those that follow from the inputs and take memory of their own.
        shapes: of every value, by name.
        nodes: multiply-accumulates of each node that has any, by name.
    """

    macs: int
    peak: Peak
    sizes: Mapping[str, int]
    activations: tuple[int, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    nodes: Mapping[str, int] = field(default_factory=dict)
    integer_macs: int = 0

    def samples(self, memory: int) -> int:
        """How many samples to run at once, if this is what one of them takes.

        Args:
            memory: bytes that may be used in all.
        """
        largest, total = max(self.activations, default=0), sum(self.activations)
        within = min(_LARGEST // max(largest, 1), memory // _SHARE // max(total, 1))
        return max(1, min(MOST_SAMPLES, within))

    def few(self, memory: int) -> int:
        """How many samples to look at together, however large their values are."""
        return max(1, min(FEW_SAMPLES, memory // _SHARE // max(sum(self.activations), 1)))


def measured(runtime: Runtime, model: ir.Model, sample: Values) -> RunCost:
    """What a run of a canonical model on ``sample`` takes, from the shapes that every value really has."""
    found = every_value(runtime, model, sample)
    sizes = {name: array.nbytes for name, array in found.items()}
    shapes = {name: array.shape for name, array in found.items()}
    nodes = macs_per_node(model, shapes)
    integers = sum(nodes.get(str(node.name), 0) for node in model.graph if in_integers(node))
    own = tuple(sizes.get(str(value.name), 0) for value in lifetimes(model.graph))
    return RunCost(sum(nodes.values()), peak_memory(model, sizes), sizes, own, shapes, nodes, integers)
