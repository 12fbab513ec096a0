"""The figures of a report: sizes, latencies, one line per layer."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from pathlib import Path

import onnx_ir as ir

from obs_onnx.evaluation.run_cost import RunCost
from obs_onnx.io import files_of
from obs_onnx.io.scratch import let_go_of
from obs_onnx.passes.canonical.plainer.integer_layers import opened
from obs_onnx.passes.layers.parameters import parameters
from obs_onnx.results.pruning import Figures

__all__ = ["compressed_bytes", "figures"]


def figures(
    model: ir.Model,
    path: Path | None,
    accuracy: float | None,
    demand: RunCost | None,
    compressed: bool = True,
    metric: float | None = None,
) -> Figures:
    """Sizes of a model and of its files.

    Args:
        model: to be measured.
        path: its file, or None.
        accuracy, metric: what is known of its quality.
        demand: what one run takes.
        compressed: also the size of the files as a zip would hold them.
    """
    count = nonzero = size = 0
    for one in parameters(opened(model)):
        count += one.size
        nonzero += one.nonzero
        size += one.nbytes
        let_go_of(one.tensor)
    files = [] if path is None else files_of(path)
    return Figures(
        parameters=count,
        nonzero=nonzero,
        macs=None if demand is None else demand.macs,
        peak_activation_bytes=None if demand is None else demand.peak.bytes,
        file_bytes=sum(file.stat().st_size for file in files) if files else None,
        weight_bits=8 * size / count if count else None,
        integer_macs=demand.integer_macs / demand.macs if demand is not None and demand.macs else None,
        compressed_bytes=compressed_bytes(files) if files and compressed else None,
        accuracy=accuracy,
        metric=metric,
    )


def compressed_bytes(paths: Iterable[str | os.PathLike[str]], chunk: int = 1 << 20) -> int:
    """Bytes of all files after deflate at zip's default level, read in pieces of ``chunk`` bytes."""
    total = 0
    for path in paths:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        with open(path, "rb") as file:
            while block := file.read(chunk):
                total += len(deflate.compress(block))
        total += len(deflate.flush())
    return total
