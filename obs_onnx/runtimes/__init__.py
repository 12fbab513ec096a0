"""Where a model runs and is timed: one file per runtime behind one small protocol.

In: a model and feeds. Out: arrays, and seconds per run. Next: :mod:`obs_onnx.calibration` looks into models
with it, :mod:`obs_onnx.latency` times them.
"""

from obs_onnx.runtimes.base import ModelSource, Runtime, Session
from obs_onnx.runtimes.registry import RUNTIMES, calibration_runtime, open_runtime

__all__ = ["RUNTIMES", "ModelSource", "Runtime", "Session", "calibration_runtime", "open_runtime"]
