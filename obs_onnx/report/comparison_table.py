"""The table of dense, pruned and quantized models, as text for console and HTML."""

from __future__ import annotations

from collections.abc import Sequence

from obs_onnx.report import format as fmt
from obs_onnx.results.pruning import Combination

__all__ = ["COMBINED", "combined_rows"]

COMBINED = ("model", "file", "accuracy", "output error", "same class", "metric", "latency")


def combined_rows(combinations: Sequence[Combination]) -> list[tuple[str, ...]]:
    """One row per model under the headings :data:`COMBINED`."""
    return [
        (
            one.model,
            fmt.size(one.file_bytes),
            fmt.percent(one.accuracy, 2),
            fmt.error(one.output_error),
            fmt.percent(one.agreement),
            fmt.error(one.metric),
            fmt.milliseconds(None if one.latency_ms is None else one.latency_ms.median),
        )
        for one in combinations
    ]
