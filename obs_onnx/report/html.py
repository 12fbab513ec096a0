"""The result of a run as one self-contained HTML file; its plots need matplotlib (extra ``[report]``)."""

from __future__ import annotations

import base64
import io
import os
import warnings
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from obs_onnx.io.atomic_files import Together, write_text
from obs_onnx.passes.printable import printable
from obs_onnx.report import format as fmt
from obs_onnx.report.comparison_table import COMBINED, combined_rows
from obs_onnx.report.pruning_text import total_rows
from obs_onnx.report.quality_text import PARTS, measured_as, part_rows, quality_lines
from obs_onnx.results.pruning import LayerResult, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["render_html", "write_html"]

_ROW_INCHES = 0.28


def render_html(report: Report, *, plots: bool = True) -> str:
    """The page as text; without ``plots``, or without matplotlib, it holds the tables alone."""
    from jinja2 import Environment, StrictUndefined

    source = resources.files("obs_onnx.report").joinpath("report.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: printable(value) if isinstance(value, str) else value,
    )
    environment.filters.update(percent=fmt.percent, error=fmt.error, count=fmt.count)
    return environment.from_string(source).render(
        report=report,
        totals=total_rows(report),
        measured=measured_as(report.task),
        part_headings=PARTS,
        parts=part_rows(report.parts),
        quality=quality_lines(report),
        headings=COMBINED,
        combinations=combined_rows(report.combinations),
        plots=_plots(report.layers) if plots and report.layers else [],
    )


def write_html(
    path: str | os.PathLike[str], report: Report, *, plots: bool = True, files: Together | None = None
) -> None:
    """Render and write the page, whole or not at all, together with other ``files``.

    Raises:
        OptionError: the file cannot be written.
    """
    write_text(path, render_html(report, plots=plots), files)


def _plots(layers: Sequence[LayerResult]) -> list[tuple[str, str]]:
    """(caption, data address of an SVG image) of every plot; empty without matplotlib."""
    try:
        import matplotlib  # noqa: F401  (the import itself is the question)
    except ImportError:
        return []
    plots = [("Share of the weights kept, per layer", _draw(layers, _kept))]
    if any(layer.predicted_error is not None or layer.measured_error is not None for layer in layers):
        plots.append(("Relative error of the layer's output: predicted and measured", _draw(layers, _errors)))
    return plots


def _draw(layers: Sequence[LayerResult], content: Any) -> str:
    """Horizontal plot with one row per layer, the first on top; the same input gives the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    shown = [printable(layer.name) for layer in layers]
    names = [name if len(name) <= 40 else "…" + name[-39:] for name in shown]
    figure = Figure(figsize=(8.0, 0.9 + _ROW_INCHES * len(layers)), layout="constrained")
    axes = figure.add_subplot()
    content(axes, layers)
    axes.set_yticks(range(len(layers)), names, fontsize=8, parse_math=False)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.StringIO()
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": "obs-onnx"}):
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue().encode()).decode()


def _kept(axes: Axes, layers: Sequence[LayerResult]) -> None:
    axes.barh(range(len(layers)), [100 * layer.kept for layer in layers], color="#3b6ea5")
    axes.set_xlim(0, 100)
    axes.set_xlabel("weights kept (%)")


def _errors(axes: Axes, layers: Sequence[LayerResult]) -> None:
    series = (
        ("predicted", "#c0792a", [layer.predicted_error for layer in layers]),
        ("measured", "#3b6ea5", [layer.measured_error for layer in layers]),
    )
    for index, (label, color, values) in enumerate(series):
        rows = [(row, value) for row, value in enumerate(values) if value is not None]
        offset = 0.4 * index - 0.2
        axes.barh(
            [row + offset for row, _ in rows], [value for _, value in rows], 0.38, label=label, color=color
        )
    axes.set_xlabel("relative error")
    axes.legend(fontsize=8)
