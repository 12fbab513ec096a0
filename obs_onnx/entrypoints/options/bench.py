"""The options of :func:`obs_onnx.latency.benchmark.bench` on the command line."""

from __future__ import annotations

from dataclasses import dataclass

from obs_onnx.data.options import FixedInputs
from obs_onnx.latency.options import TimedBatch
from obs_onnx.option import option
from obs_onnx.runtimes.options import RuntimeOptions

__all__ = ["BenchOptions"]


@dataclass(frozen=True, kw_only=True)
class BenchOptions(RuntimeOptions, FixedInputs, TimedBatch, title="Measuring"):
    """Everything that a comparison can be told."""

    seconds: float = option(3.0, help="Per model.", least=0.05)
