"""Latency as a cost: small graphs measured at many widths, and what they say about the whole model."""

from obs_onnx.latency.cost import LatencyCost
from obs_onnx.latency.sample import timing_feed
from obs_onnx.latency.stopwatch import Stopwatch
from obs_onnx.latency.table import LatencyTable, measure_table

__all__ = ["LatencyCost", "LatencyTable", "Stopwatch", "measure_table", "timing_feed"]
