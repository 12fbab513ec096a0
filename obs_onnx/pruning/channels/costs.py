"""Costs of smaller models, relative to those of the dense one."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from obs_onnx.allocation.targets import Targets
from obs_onnx.evaluation.run_cost import measured
from obs_onnx.io.onnx_file import serialize
from obs_onnx.latency import Stopwatch
from obs_onnx.passes.graph.parameters import float_tensors
from obs_onnx.pruning.calibrated import DenseModel
from obs_onnx.runtimes.partial_run import Values

__all__ = ["DenseCosts"]


@dataclass(frozen=True)
class DenseCosts:
    """The dense model as the measure of what smaller ones cost.

    Attributes:
        dense: the model.
        sample: that runs are counted on.
        file_bytes: size of its file.
        stopwatch: times models where latency is wanted.
    """

    dense: DenseModel
    sample: Values
    file_bytes: int
    stopwatch: Stopwatch | None

    @property
    def peak(self) -> int:
        """Most bytes of activations that the dense model holds at once."""
        return self.dense.cost.peak.bytes

    def limits(self, wanted: Targets) -> dict[str, float]:
        """Limits on costs: shares of the dense model's, and for ``size`` bytes."""
        shares = ("macs", "params", "latency")
        limits = {name: value for name in shares if (value := getattr(wanted, name)) is not None}
        if wanted.size is not None:
            limits["size"] = wanted.size * self.file_bytes if wanted.size < 1 else wanted.size
        if wanted.ram is not None:
            limits["ram"] = wanted.ram if wanted.ram < 1 else wanted.ram / max(self.peak, 1)
        if wanted.latency_ms is not None and self.stopwatch is not None:
            limits["latency"] = wanted.latency_ms / self.stopwatch.dense_ms
        return limits

    def of(self, small: ir.Model) -> dict[str, float]:
        """What a smaller model really costs: shares of the dense model's, and bytes of its file."""
        cost = measured(self.dense.runtime, small, self.sample)
        models = (self.dense.model, small)
        before, after = (sum(tensor.size for tensor in float_tensors(model)) for model in models)
        return {
            "macs": cost.macs / self.dense.cost.macs if self.dense.cost.macs else 1.0,
            "ram": cost.peak.bytes / self.peak if self.peak else 1.0,
            "params": after / before if before else 1.0,
            "size": float(len(serialize(small))),
            **({} if self.stopwatch is None else {"latency": self.stopwatch.ratio(small)}),
        }
