"""Latency: models timed side by side, and latency as a cost, from small graphs measured at many widths.

In: models, a runtime, a feed. Out: :class:`~obs_onnx.results.benchmark.Benchmark` records; a table that
predicts the latency of any widths. Next: :mod:`obs_onnx.allocation` fills a limit on latency with it.
"""

from obs_onnx.data.timing_feed import timing_feed
from obs_onnx.latency.cost import LatencyCost
from obs_onnx.latency.stopwatch import Stopwatch
from obs_onnx.latency.table import LatencyTable, measure_table

__all__ = ["LatencyCost", "LatencyTable", "Stopwatch", "measure_table", "timing_feed"]
