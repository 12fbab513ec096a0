"""What one run of a model takes: multiply-accumulates, memory of activations, bytes of every value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from obs_onnx.passes.costs.macs import count_macs
from obs_onnx.passes.costs.memory import Peak, peak_memory
from obs_onnx.runtimes import Runtime
from obs_onnx.runtimes.partial_run import Values, every_value

__all__ = ["RunCost", "measured"]


@dataclass(frozen=True)
class RunCost:
    """What one run takes.

    Attributes:
        macs: multiply-accumulates.
        peak: memory of activations.
        sizes: bytes of every value, by name.
    """

    macs: int
    peak: Peak
    sizes: Mapping[str, int]


def measured(runtime: Runtime, model: ir.Model, sample: Values) -> RunCost:
    """What a run of a canonical model on ``sample`` takes, from the shapes that every value really has."""
    found = every_value(runtime, model, sample)
    sizes = {name: array.nbytes for name, array in found.items()}
    macs = count_macs(model, {name: array.shape for name, array in found.items()})
    return RunCost(macs, peak_memory(model, sizes), sizes)
