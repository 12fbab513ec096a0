"""The rows of a frontier, as every report shows them."""

from __future__ import annotations

from obs_onnx.allocation.targets import DROP, ERROR, LATENCY, MACS, METRIC, SIZE
from obs_onnx.report import format as fmt
from obs_onnx.results.frontier import Frontier, Point

__all__ = ["COLUMNS", "frontier_rows"]


COLUMNS = (
    "model",
    LATENCY.label,
    "of dense",
    MACS.label,
    SIZE.label,
    ERROR.name,
    "same class",
    DROP.label,
    METRIC.label,
    "worst part",
)


def frontier_rows(frontier: Frontier) -> list[tuple[str, ...]]:
    """One row for the dense model and each point that nothing dominates, under :data:`COLUMNS`."""
    dense = frontier.dense
    rows = [_row("dense", dense, dense)]
    return rows + [_row(f"{i:02d}", point, dense) for i, point in enumerate(frontier.kept, start=1)]


def _row(name: str, point: Point, dense: Point) -> tuple[str, ...]:
    macs = None if point.macs is None or not dense.macs else point.macs / dense.macs
    return (
        name,
        fmt.milliseconds(point.latency_ms),
        fmt.percent(point.ratio),
        fmt.percent(macs),
        fmt.size(point.file_bytes),
        fmt.error(point.output_error),
        fmt.percent(point.agreement),
        fmt.percent(point.accuracy, 2),
        fmt.error(point.metric),
        point.part or fmt.DASH,
    )
