"""Two runs side by side: what each came to, and what they were asked for otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from obs_onnx.allocation.targets import DROP, ERROR, LATENCY
from obs_onnx.report import format as fmt
from obs_onnx.report.readable import summary_line
from obs_onnx.report.text_writer import Writer, figure_text, label_of
from obs_onnx.results.pruning import Figures, LayerResult, Report, plain

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_comparison"]

_COUNTED = ("parameters", "nonzero", "macs", "peak_activation_bytes", "file_bytes", "compressed_bytes")
_SAME = 1e-3  # relative difference of figures of dense models that are one and the same


def print_comparison(
    names: tuple[str, str], reports: tuple[Report, Report], console: Console | None = None
) -> None:
    """Figures of two results, their ratios, and what differs between the runs.

    Args:
        names: of the runs.
        reports: of the runs.
        console: default stdout.
    """
    out = Writer(console)
    for name, report in zip(names, reports, strict=True):
        out.line(name, style="bold")
        out.line(summary_line(report), indent=2)
    out.line()
    for alert in _doubts(reports):
        out.line(f"warning: {alert}", style="bold red")
    out.table(("", "dense", "first", "second", "second to first"), _figure_rows(*reports))
    options = _differing(*(_asked(report) for report in reports))
    if options:
        out.line()
        out.table(("asked for", "first", "second"), options, left=3)
    widths = _differing(*(_widths(report.layers) for report in reports))
    if widths:
        out.line()
        out.table(("widths in, out", "first", "second"), widths)


def _doubts(reports: tuple[Report, Report]) -> list[str]:
    """Why the figures may not be those of one question."""
    one, other = reports
    found = []
    pairs = [(getattr(one.before, key), getattr(other.before, key)) for key in ("parameters", "macs")]
    if any(a is not None and b is not None and abs(a - b) > _SAME * max(a, b) for a, b in pairs):
        found.append("the dense models are different ones")
    if one.before.accuracy != other.before.accuracy:
        found.append("accuracy was measured on other data, or of another dense model")
    if one.before.runtime != other.before.runtime:
        found.append(f"latency is that of {one.before.runtime} and of {other.before.runtime}")
    return found


def _figure_rows(one: Report, other: Report) -> list[tuple[str, ...]]:
    """A row for each figure that both runs measured."""
    rows = []
    for key in _COUNTED:
        dense, first, second = (getattr(each, key) for each in (one.before, one.after, other.after))
        if first is not None and second is not None:
            texts = (figure_text(key, value) for value in (dense, first, second))
            rows.append((label_of(key), *texts, fmt.times(first or None, second)))
    dense, first, second = (_median(each) for each in (one.before, one.after, other.after))
    if first is not None and second is not None:
        texts = (fmt.milliseconds(value) for value in (dense, first, second))
        rows.append((LATENCY.label, *texts, fmt.times(first, second)))
    pair = one.after.accuracy, other.after.accuracy
    if pair[0] is not None and pair[1] is not None:
        texts = (fmt.percent(value, 2) for value in (one.before.accuracy, *pair))
        rows.append((DROP.label, *texts, f"{100 * (pair[1] - pair[0]):+.2f}"))
    if one.output_error is not None and other.output_error is not None:
        errors = one.output_error, other.output_error
        rows.append((ERROR.label, "", *map(fmt.error, errors), fmt.times(errors[0] or None, errors[1])))
    return rows


def _median(figures: Figures) -> float | None:
    return None if figures.latency_ms is None else figures.latency_ms.median


def _asked(report: Report) -> dict[str, str]:
    """What was asked for, and what became of it, as text."""
    found = {name: str(value) for name, value in report.options.items() if name not in ("output", "targets")}
    for name, value in report.targets.items():
        reached = report.reached.get(name)
        told = "" if reached is None else f" (reached {plain(reached)})"
        found[f"target {name}"] = f"{value}{told}"
    return {"model": report.model, "mode": report.mode, "criterion": report.criterion, **found}


def _widths(layers: tuple[LayerResult, ...]) -> dict[str, str]:
    """Widths of layers in the end, by name."""
    return {
        layer.name: ", ".join(map(str, layer.kept_widths))
        for layer in layers
        if layer.kept_widths is not None
    }


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """What is not the same in both."""
    names = dict.fromkeys((*one, *other))
    return [
        (name, one.get(name, fmt.DASH), other.get(name, fmt.DASH))
        for name in names
        if one.get(name) != other.get(name)
    ]
