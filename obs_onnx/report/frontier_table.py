"""The rows of a frontier, as every report shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from obs_onnx.allocation.targets import DROP, ERROR, LATENCY, MACS, METRIC, SIZE
from obs_onnx.report import format as fmt
from obs_onnx.results.frontier import Frontier, Point

__all__ = ["COLUMNS", "frontier_line", "frontier_rows"]


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


def frontier_line(frontier: Frontier) -> str:
    """A frontier in one line: how many models, and between what cost and quality they lie."""
    kept, dense = frontier.kept, frontier.dense
    where = f"{frontier.model} -> {frontier.output or 'memory'}"
    if not kept:
        return f"{where}: nothing was found that costs less"
    parts = [f"{len(kept)} model{'s' if len(kept) > 1 else ''}"]
    shares = (
        (f"{LATENCY.label} {fmt.milliseconds(dense.latency_ms)} x", [point.ratio for point in kept]),
        (f"{MACS.label} {fmt.count(dense.macs)} x", [_share(point.macs, dense.macs) for point in kept]),
        (
            f"{SIZE.label} {fmt.size(dense.file_bytes)} x",
            [_share(one.file_bytes, dense.file_bytes) for one in kept],
        ),
        (f"output {ERROR.name}", [point.output_error for point in kept]),
    )
    parts += [f"{name} {_span(values, fmt.error)}" for name, values in shares if None not in values]
    accuracies = [point.accuracy for point in kept]
    if None not in accuracies:
        parts.append(f"{DROP.label} {_span(accuracies, lambda value: fmt.percent(value, 2))}")
    return f"{where}: {', '.join(parts)}"


def _share(value: int | None, dense: int | None) -> float | None:
    return None if value is None or not dense else value / dense


def _span(values: Sequence[float | None], shown: Callable[[float | None], str]) -> str:
    """The first and the last, which is one where they look the same."""
    first, last = shown(values[0]), shown(values[-1])
    return first if first == last else f"{first} .. {last}"


def _row(name: str, point: Point, dense: Point) -> tuple[str, ...]:
    return (
        name,
        fmt.milliseconds(point.latency_ms),
        fmt.percent(point.ratio),
        fmt.percent(_share(point.macs, dense.macs)),
        fmt.size(point.file_bytes),
        fmt.error(point.output_error),
        fmt.percent(point.agreement),
        fmt.percent(point.accuracy, 2),
        fmt.error(point.metric),
        point.part or fmt.DASH,
    )
