"""What a run will cost, said before it starts."""

from __future__ import annotations

import time

from obs_onnx.pruning.calibration_data import DAMAGE_SHARE, CalibrationData
from obs_onnx.pruning.dense_model import DenseModel
from obs_onnx.pruning.effort import Effort

__all__ = ["cost_note"]


def cost_note(what: str, parts: int, dense: DenseModel, data: CalibrationData, effort: Effort) -> str:
    """What measuring so many parts of the model will cost, from one timed batch."""
    feed = data.first
    start = time.perf_counter()
    dense.session.run(feed)
    rows = max((array.shape[0] for array in feed.values() if array.ndim), default=1)
    per_sample = (time.perf_counter() - start) / max(rows, 1)
    samples = effort.samples
    if data.fit.count is not None:
        samples = min(samples, int(data.fit.count * DAMAGE_SHARE))
    levels, samples = effort.bounded(parts, dense.cost.macs, len(dense.model.graph), samples)
    runs = parts * levels * samples / 2 + 4 * (data.fit.count or samples)
    return (
        f"measuring {parts} {what} at {levels} levels or more on {samples} samples: "
        f"about {runs * per_sample:.0f} s of inference"
    )
