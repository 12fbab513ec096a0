"""What quantization is calibrated with and judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from obs_onnx.data.sources import Source
from obs_onnx.evaluation.measures.yardstick import Yardstick
from obs_onnx.evaluation.quality import evaluate_sessions
from obs_onnx.runtimes import Runtime
from obs_onnx.runtimes.sessions.partial_run import open_whole

__all__ = ["Calibration", "Made"]


@dataclass(frozen=True)
class Made:
    """A quantized model, and what the user should know of it."""

    model: ir.Model
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Calibration:
    """Data, and where models run.

    Attributes:
        runtime: for calibration and checks.
        fit, held_out: to learn from, and to measure errors on.
        yardstick: how outputs are measured; None: the float model's outputs say it.
        budget: bytes of activations in memory.
        damping: least one of the second moments, relative to the mean of their diagonals.
    """

    runtime: Runtime
    fit: Source
    held_out: Source
    yardstick: Yardstick | None = None
    budget: int = 1 << 30
    damping: float = 1e-2

    def errors(self, model: ir.Model, others: Mapping[str, ir.Model]) -> Mapping[str, float]:
        """Output errors of other forms of a model on the held-out data."""
        reference = open_whole(self.runtime, model)
        found = {}
        for name, other in others.items():
            session = open_whole(self.runtime, other)
            error = evaluate_sessions(
                session, self.held_out, reference, yardstick=self.yardstick
            ).output_error
            found[name] = 0.0 if error is None else error if np.isfinite(error) else np.inf
        return found
