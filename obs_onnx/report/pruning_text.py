"""The report of a pruning run as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from obs_onnx.allocation.targets import LATENCY
from obs_onnx.report import format as fmt
from obs_onnx.report.comparison_table import COMBINED, combined_rows
from obs_onnx.report.quality_text import PARTS, measured_as, part_rows, quality_lines
from obs_onnx.results.frontier import Frontier
from obs_onnx.results.pruning import GroupResult, LayerResult, Report

if TYPE_CHECKING:
    from rich.console import Console
from obs_onnx.report.text_writer import (
    WIDE_ENOUGH_FOR_BARS,
    Writer,
    fields_of,
    figure_text,
    label_of,
    shape_text,
    spread_text,
)

__all__ = ["print_remarks", "print_report", "total_rows"]


def print_report(report: Report, console: Console | None = None) -> None:
    """Summary of a run on ``console`` (default: stdout)."""
    out = Writer(console)
    out.line(f"{report.model} {out.arrow} {report.output or '(dry run, nothing written)'}", style="bold")
    out.line(_how(report))
    wanted = ", ".join(f"{key}={value}" for key, value in report.targets.items())
    if wanted:
        reached = "reached" if report.met else "NOT reached"
        out.line(f"target {wanted}: {reached}", style="green" if report.met else "bold red")
    for one in report.missed:
        out.line(f"target {one}", style="bold red")
    out.line()
    if report.groups:
        _print_groups(out, report.groups)
        out.line()
    if report.layers:
        _print_layers(out, report.layers)
        out.line()
    out.table(("", "before", "after", ""), total_rows(report))
    if report.combinations:
        out.line()
        out.table(COMBINED, combined_rows(report.combinations))
    if parts := part_rows(report.parts):
        out.line()
        out.table(PARTS, parts, left=2)
    quality = quality_lines(report)
    if quality:
        out.line()
    for text in quality:
        out.line(text)
    print_frozen(out, report.frozen)
    print_remarks(out, report)
    if report.seconds:
        stages = ", ".join(f"{name} {value:.1f} s" for name, value in report.seconds.items())
        out.line()
        out.line(f"time: {stages}", style="dim")


def print_remarks(out: Writer, report: Report | Frontier) -> None:
    """Notes, then in red what must not be overlooked and what failed behind the result."""
    remarks = [("note", "yellow", note) for note in report.notes]
    remarks += [("warning", "bold red", alert) for alert in report.alerts]
    remarks += [("failed", "bold red", failure) for failure in report.failures]
    if remarks:
        out.line()
    for kind, style, text in remarks:
        out.line(f"{kind}: {text}", style=style)


def _how(report: Report) -> str:
    parts = [report.mode, f"criterion {report.criterion}"]
    parts += [
        f"{name} {value}" for name, value in (("method", report.method), ("pattern", report.pattern)) if value
    ]
    if report.task is not None:
        parts.append(measured_as(report.task))
    if report.damping is not None:
        parts.append(f"damping {report.damping:g}")
    if report.seed is not None:
        parts.append(f"seed {report.seed}")
    return ", ".join(parts)


def _print_layers(out: Writer, layers: Sequence[LayerResult]) -> None:
    measured = any(layer.measured_error is not None for layer in layers)
    wide = out.console.width >= WIDE_ENOUGH_FOR_BARS
    rows = []
    for layer in layers:
        bar = (out.bar(layer.kept),) if wide else ()
        errors = (fmt.error(layer.predicted_error), fmt.error(layer.measured_error)) if measured else ()
        rows.append((layer.name, shape_text(layer.shape), *bar, fmt.percent(layer.kept), *errors))
    headings = (*(("",) if wide else ()), "kept", *(("predicted", "measured") if measured else ()))
    out.table(("layer", "shape", *headings), rows)


def _print_groups(out: Writer, groups: Sequence[GroupResult]) -> None:
    wide = out.console.width >= WIDE_ENOUGH_FOR_BARS
    rows = []
    for group in groups:
        bar = (out.bar(group.kept / group.channels),) if wide else ()
        rows.append(
            (group.name, fmt.count(group.tensors), *bar, fmt.count(group.kept), fmt.count(group.channels))
        )
    out.table(("channels of", "tensors", *(("",) if wide else ()), "kept", "of"), rows)


def total_rows(report: Report) -> list[tuple[str, str, str, str]]:
    """(figure, before, after, change) as text, for everything that was measured."""
    before, after = report.before, report.after
    keys = ("parameters", "nonzero", "macs", "peak_activation_bytes", "file_bytes", "compressed_bytes")
    rows = []
    for key in keys:
        old, new = getattr(before, key), getattr(after, key)
        if old is not None or new is not None:
            rows.append((label_of(key), figure_text(key, old), figure_text(key, new), fmt.times(old, new)))
    old_ms, new_ms = before.latency_ms, after.latency_ms
    if old_ms or new_ms:
        where = before.runtime or after.runtime
        label = f"{LATENCY.label} ({where})" if where else LATENCY.label
        old, new = (latency.median if latency else None for latency in (old_ms, new_ms))
        rows.append((label, fmt.milliseconds(old), fmt.milliseconds(new), fmt.times(old, new)))
        rows.append(("  10 % .. 90 %", spread_text(old_ms), spread_text(new_ms), ""))
    if before.accuracy is not None or after.accuracy is not None:
        change = ""
        if before.accuracy is not None and after.accuracy is not None:
            change = f"{100 * (after.accuracy - before.accuracy):+.2f}"
        rows.append(("accuracy", fmt.percent(before.accuracy, 2), fmt.percent(after.accuracy, 2), change))
    if before.metric is not None or after.metric is not None:
        change = ""
        if before.metric is not None and after.metric is not None:
            change = f"{after.metric - before.metric:+.3g}"
        rows.append((report.metric or "metric", fmt.error(before.metric), fmt.error(after.metric), change))
    return rows


def print_frozen(out: Writer, frozen: Iterable[object], heading: str = "left alone") -> None:
    """Nodes under a heading, grouped by their reason."""
    reasons: dict[str, list[str]] = {}
    for item in map(fields_of, frozen):
        reasons.setdefault(item["reason"], []).append(f"{item['node']} ({item['op_type']})")
    if not reasons:
        return
    out.line()
    out.line(f"{heading}:", style="bold")
    for reason, nodes in reasons.items():
        out.line(f"{', '.join(nodes)}: {reason}", indent=2)
