"""The figures of a report: sizes, latencies, one line per layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from obs_onnx.model_file import serialize
from obs_onnx.passes.layers import Layer
from obs_onnx.passes.macs import count_macs
from obs_onnx.passes.memory import Peak, peak_memory
from obs_onnx.passes.parameters import float_tensors
from obs_onnx.report.files import compressed_bytes
from obs_onnx.report.result import Figures, Latency, LayerResult
from obs_onnx.runtimes import Runtime
from obs_onnx.timing import Ratio, bench
from obs_onnx.trials import Attempt
from obs_onnx.walk import Values, every_value

__all__ = ["Demand", "figures", "layer_line", "measured", "measured_macs", "timed"]


@dataclass(frozen=True)
class Demand:
    """What one run takes.

    Attributes:
        macs: multiply-accumulates.
        peak: memory of activations.
        sizes: bytes of every value, by name.
    """

    macs: int
    peak: Peak
    sizes: Mapping[str, int]


def measured(runtime: Runtime, model: ir.Model, sample: Values) -> Demand:
    """What a run of a canonical model on ``sample`` takes, from the shapes that every value really has."""
    found = every_value(runtime, model, sample)
    sizes = {name: array.nbytes for name, array in found.items()}
    macs = count_macs(model, {name: array.shape for name, array in found.items()})
    return Demand(macs, peak_memory(model, sizes), sizes)


def measured_macs(runtime: Runtime, model: ir.Model, sample: Values) -> int:
    """Multiply-accumulates of one run on ``sample``."""
    return measured(runtime, model, sample).macs


def figures(
    model: ir.Model,
    path: Path | None,
    accuracy: float | None,
    demand: Demand | None,
    compressed: bool = True,
) -> Figures:
    """Sizes of a model and of its files; ``compressed``: also of the files as a zip would hold them."""
    parameters = nonzero = 0
    for tensor in float_tensors(model):
        parameters += tensor.size
        nonzero += int(np.count_nonzero(tensor.numpy()))
    files = [] if path is None else [path, *(p for p in [path.with_name(path.name + ".data")] if p.exists())]
    return Figures(
        parameters=parameters,
        nonzero=nonzero,
        macs=None if demand is None else demand.macs,
        peak_activation_bytes=None if demand is None else demand.peak.bytes,
        file_bytes=sum(file.stat().st_size for file in files) if files else None,
        compressed_bytes=compressed_bytes(files) if files and compressed else None,
        accuracy=accuracy,
    )


def timed(
    runtime: Runtime,
    original: ir.Model,
    pruned: ir.Model,
    before: Figures,
    after: Figures,
    batch: int,
    notes: list[str],
    feed: Values | None = None,
) -> tuple[Figures, Figures, Ratio]:
    """The figures with latencies, both models timed in turn, and the ratio of these.

    Without a ``feed`` the models run on random data.
    """
    models = [serialize(original), serialize(pruned)]
    result = bench(models, runtime, batch=batch, feed=feed, seconds=1.0)
    if result.noisy:
        notes.append(f"the last measurement of latency is noisy: {'; '.join(result.noise)}")
    first, second = (Latency(one.median, one.p10, one.p90, one.runs) for one in result.latencies)
    return (
        replace(before, latency_ms=first, runtime=runtime.spec),
        replace(after, latency_ms=second, runtime=runtime.spec),
        result.ratios[1],
    )


def layer_line(
    layer: Layer, best: Attempt, zeros: Mapping[str, int], errors: Mapping[str, float]
) -> LayerResult:
    """A layer's line in the report.

    Args:
        layer: which one.
        best: the attempt that was kept.
        zeros: weights that are zero, by layer name.
        errors: relative output errors inside the pruned network, by layer name.
    """
    solved = best.solved.get(layer.name)
    return LayerResult(
        name=layer.name,
        op_type=layer.op_type,
        shape=layer.layout.shape,
        weights=layer.size,
        kept=1 - zeros.get(layer.name, 0) / layer.size,
        predicted_error=math.sqrt(solved.solution.error) if solved else None,
        measured_error=errors[layer.name],
        method=solved.solution.method if solved else None,
        damping=solved.solution.damping if solved else None,
    )
