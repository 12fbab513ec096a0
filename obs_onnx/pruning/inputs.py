"""What is opened before anything is computed: the model and the runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import onnx_ir as ir

from obs_onnx.data.feeds import Feed, TensorSpec
from obs_onnx.data.open_source import open_source
from obs_onnx.io.onnx_file import ModelLike, open_model
from obs_onnx.io.paths import calibration_of
from obs_onnx.passes.canonical.fixed_numbers import random_nodes
from obs_onnx.pruning.options import SearchOptions
from obs_onnx.runtimes import Runtime, calibration_runtime, open_runtime
from obs_onnx.runtimes.observed_shapes import declare_shapes
from obs_onnx.runtimes.onnxruntime import OrtRuntime

__all__ = ["Inputs", "load"]

_SAMPLE = 4  # rows that shapes are seen on


@dataclass(frozen=True)
class Inputs:
    """A model as it came in, and where it runs.

    Attributes:
        model: not changed, but that it declares shapes that only the runtime knows.
        name: for people.
        path: its file, or None.
        runtime: where models are calibrated and judged, with the same random numbers in every run.
        target: where latency counts.
    """

    model: ir.Model
    name: str
    path: Path | None
    runtime: Runtime
    target: Runtime


def load(model: ModelLike, options: SearchOptions) -> Inputs:
    """Open a model and the runtimes that ``options`` name.

    Raises:
        ModelError, OptionError, MissingRuntimeError: bad input.
    """
    original, name, path = open_model(model, options.custom_domains)
    given = options.runtime, options.threads, options.custom_ops
    target = open_runtime(*given)
    runtime = calibration_runtime(*given)
    if isinstance(runtime, OrtRuntime) and any(random_nodes(original)):
        runtime = runtime.steadied()

    def sample(specs: Sequence[TensorSpec]) -> Feed:
        calib = calibration_of(options.calib, path)
        return next(iter(open_source(calib, specs, batch_size=_SAMPLE, labels_key=options.labels)))

    again = isinstance(options.calib, str | PathLike | None)  # what is no file may give its data once only
    shaped = declare_shapes(lambda: runtime, original, sample if again else None)
    return Inputs(shaped, name, path, runtime, target)
