"""Options about how models are timed."""

from __future__ import annotations

from dataclasses import dataclass

from obs_onnx.option import Options, option

__all__ = ["LatencyOptions", "TimedBatch"]


@dataclass(frozen=True, kw_only=True)
class TimedBatch(Options, title="Measuring"):
    """What is timed."""

    batch: int = option(1, help="Samples per timed run.", least=1, metavar="N")


@dataclass(frozen=True, kw_only=True)
class LatencyOptions(TimedBatch, title="Measuring"):
    """Whether and how latency is measured."""

    latency: bool = option(True, help="Measure the latency before and after.")
