"""A frontier as one HTML file that needs nothing else."""

from __future__ import annotations

import os

from obs_onnx.allocation.targets import METRIC, TARGETS, TRADED
from obs_onnx.io.atomic_files import write_text
from obs_onnx.report import format as fmt
from obs_onnx.report.frontier_table import COLUMNS, frontier_line, frontier_rows
from obs_onnx.report.page.svg import Picture
from obs_onnx.report.page.template import filled, render
from obs_onnx.results.frontier import Frontier, Point

__all__ = ["draw_frontier", "render_frontier", "write_frontier_page"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _FOOT = 360.0, 230.0, 46.0, 10.0, 12.0, 34.0
_TICKS = 4  # of an axis


def render_frontier(frontier: Frontier, command: str | None = None) -> str:
    """The page as text.

    Args:
        frontier: to show.
        command: the command line of the run, if it had one.
    """
    headings, rows = filled(COLUMNS, frontier_rows(frontier))
    files = [os.path.basename(frontier.model), *(point.file or fmt.DASH for point in frontier.kept)]
    quality = frontier.metric if frontier.by == METRIC.name and frontier.metric else frontier.by
    return render(
        "frontier.html",
        {
            "frontier": frontier,
            "verdict": f"{frontier_line(frontier)}.",
            "chart": draw_frontier(frontier),
            "headings": headings,
            "rows": list(zip(rows, files, strict=True)),
            "quality": quality,
            "command": command,
        },
    )


def write_frontier_page(path: str | os.PathLike[str], frontier: Frontier, command: str | None = None) -> None:
    """Render and write the page, whole or not at all.

    Raises:
        OptionError: the file cannot be written.
    """
    write_text(path, render_frontier(frontier, command))


def draw_frontier(frontier: Frontier) -> str:
    """What models lose against what they cost, as SVG; empty where nothing of both was measured."""
    cost, quality = TARGETS[frontier.cost], TRADED[frontier.by]

    def at(point: Point) -> tuple[float, float] | None:
        x, y = cost.drawn(point), quality.drawn(point)
        return None if x is None or y is None else (x, y)

    kept = [(point, place) for point in (frontier.dense, *frontier.kept) if (place := at(point))]
    others = [place for point in frontier.points if point.dominated and (place := at(point))]
    places = [place for _, place in kept] + others
    if len(places) < 2:
        return ""
    right = max(x for x, _ in places) * 1.04 or 1.0
    low, high = min(y for _, y in places), max(y for _, y in places)
    low, high = low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1)

    def scaled(place: tuple[float, float]) -> tuple[float, float]:
        x, y = place
        across, up = x / right, (y - low) / (high - low)
        wide, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _FOOT
        return _LEFT + wide * across, _HEIGHT - _FOOT - tall * up

    axis = frontier.metric if frontier.by == METRIC.name and frontier.metric else quality.axis
    picture = Picture(_WIDTH, _HEIGHT, f"{axis} against {cost.axis}. {frontier_line(frontier)}")
    bottom = _HEIGHT - _FOOT
    picture.line([(_LEFT, _TOP), (_LEFT, bottom), (_WIDTH - _RIGHT, bottom)], "axis")
    for step in range(_TICKS + 1):
        x, y = right * step / _TICKS, low + (high - low) * step / _TICKS
        picture.text(scaled((x, low))[0], bottom + 12, f"{x:.3g}", "tick middle")
        picture.text(_LEFT - 4, scaled((0, y))[1] + 3, f"{y:.3g}", "tick end")
    picture.text(_WIDTH - _RIGHT, _HEIGHT - 6, cost.axis, "end")
    picture.text(2, 9, axis)
    for place in others:
        picture.dot(*scaled(place), "lost", f"dominated: {place[0]:.4g}, {place[1]:.4g}")
    picture.line([scaled(place) for _, place in sorted(kept, key=lambda one: one[1])], "curve")
    for point, place in kept:
        x, y = scaled(place)
        tip = f"{point.file or 'dense'}: {place[0]:.4g}, {place[1]:.4g}"
        if point is frontier.dense:
            picture.rectangle(x - 3.5, y - 3.5, 7, 7, "here", tip)
        else:
            picture.dot(x, y, "point", tip)
    return picture.markup()
