"""The report of a pruning run as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from obs_onnx.allocation.targets import LATENCY
from obs_onnx.report import format as fmt
from obs_onnx.report.comparison_table import COMBINED, combined_rows
from obs_onnx.report.next_steps import next_steps
from obs_onnx.report.quality_text import PARTS, measured_as, part_rows, quality_lines
from obs_onnx.results.frontier import Frontier
from obs_onnx.results.pruning import GroupResult, LayerResult, Report, plain

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

__all__ = ["criterion_text", "print_frozen", "print_remarks", "print_report", "total_rows", "widths_text"]

_CHANNELS = "channels"
_LEFT = {_CHANNELS: "channels", "weights": "weights"}  # what of a node, by mode
_FLOAT_BITS = 16  # of the smallest floating-point type of models without integers
_SHOWN, _STAGES = 0.05, 5  # seconds of a stage that is shown, and how many of them


def print_report(
    report: Report, console: Console | None = None, *, files: Iterable[str] = (), verbose: bool = False
) -> None:
    """Summary of a run: what became of each layer, what it changed, and last what was asked and reached.

    Args:
        report: of the run.
        console: default stdout.
        files: that were written; by default the model alone.
        verbose: show what every kind of work took, too, and where it ran.
    """
    out = Writer(console)
    out.line(f"{report.model} {out.arrow} {report.output or _unwritten(report)}", style="bold")
    out.line(_how(report))
    out.line()
    if report.groups:
        _print_groups(out, report.groups)
        out.line()
    if report.layers:
        _print_layers(out, report.layers, with_widths=report.mode == _CHANNELS)
        out.line()
    if report.combinations:
        out.table(COMBINED, combined_rows(report.combinations))
        out.line()
    if parts := part_rows(report.parts):
        out.table(PARTS, parts, left=2)
        out.line()
    for text in quality_lines(report):
        out.line(text)
    print_frozen(out, report.frozen, f"left alone, {_LEFT.get(report.mode, 'weights')} of")
    print_remarks(out, report)
    if verbose:
        _print_costs(out, report)
    out.line()
    out.table(("", "before", "after", ""), total_rows(report))
    _print_outcome(out, report, list(files) or ([report.output] if report.output else []))


def _unwritten(report: Report) -> str:
    return "(dry run, nothing written)" if report.is_dry else "(nothing written)"


def _print_outcome(out: Writer, report: Report, files: Sequence[str]) -> None:
    """What was asked for and reached, the files, and what to do next."""
    if report.targets:
        out.line()
    missed = {one.target: one for one in report.missed}
    for name, wanted in report.targets.items():
        reached = report.reached.get(name)
        told = "" if reached is None else f", {plain(reached)}"
        if name in missed:
            out.line(f"target {missed[name]}", style="bold red")
        elif report.is_dry:
            out.line(f"target {name}={wanted}: not tried, this is a dry run")
        elif report.met or reached is not None:
            out.line(f"target {name}={wanted}: reached{told}", style="green")
        else:
            out.line(f"target {name}={wanted}: NOT reached", style="bold red")
    if files:
        out.line(f"written: {', '.join(files)}")
    for step in next_steps(report):
        out.line(f"next: {step}", style="cyan")
    if report.seconds:
        longest = sorted(report.seconds.items(), key=lambda item: -item[1])
        total = report.seconds.get("total")
        stages = [f"{name} {value:.1f} s" for name, value in longest if name != "total" and value >= _SHOWN]
        whole = [] if total is None else [f"{total:.1f} s"]
        out.line(f"time: {', '.join([*whole, *stages[:_STAGES]])}", style="dim")


def _print_costs(out: Writer, report: Report) -> None:
    """What every kind of work took, what was asked for, and where it ran."""
    rows = [
        (one.name, f"{one.seconds:.2f} s", f"{one.cpu_seconds:.2f} s", fmt.size(one.peak_bytes), *counts)
        for one in report.stages
        for counts in [(fmt.count(one.runs), fmt.count(one.sessions))]
    ]
    if rows:
        out.line()
        out.table(("work", "time", "CPU", "peak memory", "runs", "sessions"), rows)
    for title, fields in (("options", report.options), ("environment", report.environment)):
        if fields:
            out.line()
            out.table((title, ""), [(name, str(value)) for name, value in fields.items()], left=2)


def print_remarks(out: Writer, report: Report | Frontier) -> None:
    """Notes, then in red what must not be overlooked and what failed behind the result."""
    remarks = [("note", "yellow", note) for note in report.notes]
    remarks += [("warning", "bold red", alert) for alert in report.alerts]
    remarks += [("failed", "bold red", failure) for failure in report.failures]
    if remarks:
        out.line()
    for kind, style, text in remarks:
        out.line(f"{kind}: {text}", style=style)


def criterion_text(report: Report) -> str:
    """The criterion that was asked for, and the one or ones that were chosen where that was left open."""
    methods = dict.fromkeys(layer.method for layer in report.layers if layer.method)
    chosen = [one for one in methods or [report.method] if one and one != report.criterion]
    return report.criterion + (f" ({', '.join(chosen)})" if chosen else "")


def _how(report: Report) -> str:
    parts = [report.mode, f"criterion {criterion_text(report)}"]
    parts += [f"pattern {report.pattern}"] if report.pattern else []
    if report.task is not None:
        parts.append(measured_as(report.task))
    if report.damping is not None:
        parts.append(f"damping {report.damping:g}")
    if report.seed is not None:
        parts.append(f"seed {report.seed}")
    return ", ".join(parts)


def _print_layers(out: Writer, layers: Sequence[LayerResult], *, with_widths: bool) -> None:
    """A line for each layer: widths where channels went, errors where weights did."""
    measured = any(layer.measured_error is not None for layer in layers)
    wide = out.console.width >= WIDE_ENOUGH_FOR_BARS
    widths = with_widths and any(layer.kept_widths is not None for layer in layers)
    rows = []
    for layer in layers:
        shown = widths_text(layer, out.arrow) if widths else shape_text(layer.shape)
        bar = (out.bar(layer.kept),) if wide else ()
        errors = (fmt.error(layer.predicted_error), fmt.error(layer.measured_error)) if measured else ()
        rows.append((layer.name, shown, *bar, fmt.percent(layer.kept), *errors))
    headings = (*(("",) if wide else ()), "weights kept" if widths else "kept")
    headings = (*headings, *(("predicted", "measured") if measured else ()))
    out.table(("layer", "widths in, out" if widths else "shape", *headings), rows)


def widths_text(layer: LayerResult, arrow: str) -> str:
    """Channels in and out, before and after: ``64, 300 -> 64, 56``."""
    if layer.widths is None:
        return shape_text(layer.shape)
    before = ", ".join(map(str, layer.widths))
    if layer.kept_widths is None or layer.kept_widths == layer.widths:
        return before
    return (
        f"{before} {arrow} {', '.join(map(str, layer.kept_widths))}"
        if any(layer.kept_widths)
        else f"{before} {arrow} gone"
    )


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
    bits = [one.weight_bits for one in (before, after) if one.weight_bits is not None]
    if bits and min(bits) < _FLOAT_BITS:
        old, new = before.weight_bits, after.weight_bits
        rows.append(("bits per weight", fmt.error(old), fmt.error(new), fmt.times(old, new)))
    if before.integer_macs or after.integer_macs:
        rows.append(
            ("computed in integers", fmt.percent(before.integer_macs), fmt.percent(after.integer_macs), "")
        )
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
