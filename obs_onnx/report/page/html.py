"""The result of a run as one HTML file that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from obs_onnx.allocation.targets import DROP, LATENCY, MACS, RAM, SIZE
from obs_onnx.io.atomic_files import Together, write_text
from obs_onnx.report import format as fmt
from obs_onnx.report.comparison_table import COMBINED, combined_rows
from obs_onnx.report.next_steps import next_steps
from obs_onnx.report.page.curves import draw_curves
from obs_onnx.report.page.kept import draw_kept
from obs_onnx.report.page.network import draw_network
from obs_onnx.report.page.template import filled, render
from obs_onnx.report.page.verdict import verdict
from obs_onnx.report.pruning_text import criterion_text, total_rows, widths_text
from obs_onnx.report.quality_text import PARTS, measured_as, part_rows, quality_lines
from obs_onnx.report.text_writer import label_of, shape_text
from obs_onnx.results.pruning import LayerResult, Report

__all__ = ["render_html", "write_html"]


def render_html(report: Report) -> str:
    """The page as text; the same report gives the same page."""
    curves, found = draw_curves(report)
    kept, groups_left_out = draw_kept(report.groups)
    headings, combinations = filled(COMBINED, combined_rows(report.combinations))
    part_headings, parts = filled(PARTS, part_rows(report.parts))
    return render(
        "page.html",
        {
            "report": report,
            "verdict": verdict(report),
            "criterion": criterion_text(report),
            "bars": _bars(report),
            "totals": total_rows(report),
            "measured": measured_as(report.task),
            "part_headings": part_headings,
            "parts": parts,
            "quality": quality_lines(report),
            "headings": headings,
            "combinations": combinations,
            "combined_lanes": _combined_lanes(report),
            "network": draw_network(report.layers),
            "kept": kept,
            "groups_left_out": groups_left_out,
            "curves": curves,
            "left_out": found - len(curves),
            "columns": [name for name, _ in _columns(report)],
            "layers": _layer_rows(report),
            "steps": next_steps(report),
        },
    )


def write_html(path: str | os.PathLike[str], report: Report, *, files: Together | None = None) -> None:
    """Render and write the page, whole or not at all, together with other ``files``.

    Raises:
        OptionError: the file cannot be written.
    """
    write_text(path, render_html(report), files)


@dataclass(frozen=True)
class _Bar:
    """A figure before and after: as text, and in percent of the larger one."""

    name: str
    before: str
    after: str
    old: float
    new: float


def _bars(report: Report) -> list[_Bar]:
    """Figures that show at a glance what became smaller."""
    before, after = report.before, report.after
    old_ms, new_ms = (None if one.latency_ms is None else one.latency_ms.median for one in (before, after))
    whole: list[tuple[str, int | None, int | None, Callable[[int | None], str]]] = [
        (MACS.label, before.macs, after.macs, fmt.count),
        (label_of("nonzero") + " parameters", before.nonzero, after.nonzero, fmt.count),
        (label_of("file_bytes"), before.file_bytes, after.file_bytes, fmt.size),
        (RAM.label, before.peak_activation_bytes, after.peak_activation_bytes, fmt.size),
    ]
    found = [_bar(name, old, new, shown(old), shown(new)) for name, old, new, shown in whole]
    found.append(_bar(LATENCY.label, old_ms, new_ms, fmt.milliseconds(old_ms), fmt.milliseconds(new_ms)))
    shares = before.accuracy, after.accuracy
    found.append(_bar(DROP.label, *shares, *(fmt.percent(one, 2) for one in shares)))
    return [one for one in found if one is not None]


def _bar(name: str, old: float | None, new: float | None, before: str, after: str) -> _Bar | None:
    """A figure; None where it was not measured."""
    if old is None or new is None or max(old, new) <= 0:
        return None
    return _Bar(name, before, after, 100 * old / max(old, new), 100 * new / max(old, new))


def _combined_lanes(report: Report) -> list[tuple[str, list[_Bar]]]:
    """Size and latency of the dense and the pruned model in float and in integers, beside each other."""
    sizes = [(one.model, one.file_bytes, fmt.size(one.file_bytes)) for one in report.combinations]
    times = [
        (one.model, one.latency_ms.median, fmt.milliseconds(one.latency_ms.median))
        for one in report.combinations
        if one.latency_ms is not None
    ]
    return [
        (
            title,
            [
                _Bar(model, "", text, 0.0, 100 * value / max(one[1] for one in lanes))
                for model, value, text in lanes
            ],
        )
        for title, lanes in ((SIZE.label, sizes), (LATENCY.label, times))
        if any(value for _, value, _ in lanes)
    ]


def _columns(report: Report) -> list[tuple[str, Callable[[LayerResult], str]]]:
    """Headings and cells of the table of layers: those that any layer has something for."""
    every: list[tuple[str, Callable[[LayerResult], str]]] = [
        ("operator", lambda layer: layer.op_type),
        ("shape", lambda layer: shape_text(layer.shape)),
        ("channels in, out", lambda layer: widths_text(layer, "→") if layer.kept_widths else ""),
        ("weights", lambda layer: fmt.count(layer.weights)),
        ("weights kept", lambda layer: fmt.percent(layer.kept)),
        ("predicted error", lambda layer: fmt.error(layer.predicted_error)),
        ("measured error", lambda layer: fmt.error(layer.measured_error)),
        ("method", lambda layer: layer.method or fmt.DASH),
        ("damping", lambda layer: fmt.error(layer.damping)),
    ]
    return [one for one in every if any(one[1](layer) not in ("", fmt.DASH) for layer in report.layers)]


def _layer_rows(report: Report) -> list[tuple[LayerResult, list[str]]]:
    columns = _columns(report)
    return [(layer, [cell(layer) for _, cell in columns]) for layer in report.layers]
