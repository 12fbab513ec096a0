"""Latency: models timed side by side, and latency as a cost, from small graphs measured at many widths.

In: models, a runtime, a feed. Out: :class:`~obs_onnx.results.benchmark.Benchmark` records; a table that
predicts the latency of any widths. Next: :mod:`obs_onnx.allocation` fills a limit on latency with it.
Everything is imported on first use, so that the command line starts without loading arrays.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obs_onnx.latency.cost import LatencyCost
    from obs_onnx.latency.stopwatch import Stopwatch
    from obs_onnx.latency.table import LatencyTable, measure_table

__all__ = ["LatencyCost", "LatencyTable", "Stopwatch", "measure_table"]

_HOMES = {
    "LatencyCost": "obs_onnx.latency.cost",
    "LatencyTable": "obs_onnx.latency.table",
    "Stopwatch": "obs_onnx.latency.stopwatch",
    "measure_table": "obs_onnx.latency.table",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
