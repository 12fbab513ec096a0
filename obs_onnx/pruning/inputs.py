"""What is opened before anything is computed: the model and the runtimes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from obs_onnx.data.fixed import with_fixed
from obs_onnx.io.onnx_file import ModelLike, open_model
from obs_onnx.passes.canonical.fixed_numbers import random_nodes
from obs_onnx.pruning.options import SearchOptions
from obs_onnx.runtimes import Runtime, calibration_runtime, open_runtime
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.verification.front import Front, find_front

__all__ = ["Inputs", "load"]


@dataclass(frozen=True)
class Inputs:
    """A model as it came in, and where it runs.

    Attributes:
        front: the model, and what of it is pruned and measured; not changed.
        name: for people.
        path: its file, or None.
        runtime: where models are calibrated and judged, with the same random numbers in every run.
        target: where latency counts.
    """

    front: Front
    name: str
    path: Path | None
    runtime: Runtime
    target: Runtime

    @property
    def model(self) -> ir.Model:
        """What is pruned and measured."""
        return self.front.model

    @property
    def original(self) -> ir.Model:
        """The model as it came in."""
        return self.front.original


def load(model: ModelLike, options: SearchOptions) -> Inputs:
    """Open a model and the runtimes that ``options`` name.

    Raises:
        ModelError, OptionError, MissingRuntimeError: bad input.
    """
    original, name, path = open_model(model, None)
    given = options.runtime, options.threads, options.custom_ops
    target = open_runtime(*given)
    runtime = calibration_runtime(*given)
    fixed = with_fixed(original, options.fix)
    if isinstance(runtime, OrtRuntime) and any(random_nodes(fixed)):
        runtime = runtime.steadied()
    return Inputs(find_front(runtime, fixed, options.cut), name, path, runtime, target)
