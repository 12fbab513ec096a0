"""A frontier as a plot; needs matplotlib (extra ``[report]``)."""

from __future__ import annotations

import os
from typing import Any

from obs_onnx.allocation.targets import METRIC, TARGETS, TRADED
from obs_onnx.io.atomic_files import together
from obs_onnx.passes.errors import MissingRuntimeError
from obs_onnx.report.text_writer import literal
from obs_onnx.results.frontier import Frontier, Point

__all__ = ["check_matplotlib", "write_frontier"]


def check_matplotlib() -> None:
    """Fail now if the plot cannot be drawn later.

    Raises:
        MissingRuntimeError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401  (the import itself is the question)
    except ImportError as error:
        raise MissingRuntimeError("plots need matplotlib: install obs-onnx[report]") from error


def write_frontier(path: str | os.PathLike[str], frontier: Frontier) -> None:
    """Draw what models lose against what they cost, the dense one and dominated ones included.

    Args:
        path: file to write, .svg or .png.
        frontier: to draw.

    Raises:
        MissingRuntimeError: matplotlib is not installed.
        OptionError: the file cannot be written.
    """
    check_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    cost, quality = TARGETS[frontier.cost], TRADED[frontier.by]
    where = f" on {literal(frontier.runtime)}, batch {frontier.batch}" if cost.timed else ""
    kept = [frontier.dense, *frontier.kept]
    others = [point for point in frontier.points if point.dominated]
    with matplotlib.rc_context({"svg.hashsalt": "obs-onnx"}):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        axes = figure.subplots()
        styles: list[tuple[list[Point], dict[str, Any], str]] = [
            (kept, {"marker": "o"}, "frontier"),
            (others, {"marker": "x", "linestyle": "none", "color": "0.6"}, "dominated"),
            ([frontier.dense], {"marker": "s", "linestyle": "none", "color": "black"}, "dense"),
        ]
        for points, style, name in styles:
            drawn = [(cost.drawn(one), quality.drawn(one)) for one in points]
            drawn = [(x, y) for x, y in drawn if x is not None and y is not None]
            if drawn:
                axes.plot(*zip(*drawn, strict=True), label=name, **style)
        axes.set(
            xlabel=cost.axis + where,
            ylabel=literal(frontier.metric or quality.axis) if frontier.by == METRIC.name else quality.axis,
            title=literal(os.path.basename(frontier.model)),
        )
        axes.set_xlim(left=0)
        axes.legend()
        with together() as files:
            figure.savefig(files.new(path), metadata={"Date": None} if str(path).endswith(".svg") else None)
