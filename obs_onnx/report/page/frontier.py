"""A frontier as one HTML file that needs nothing else."""

from __future__ import annotations

import math
import os

from obs_onnx.allocation.targets import DROP, ERROR, METRIC, TARGETS, TRADED
from obs_onnx.io.atomic_files import write_text
from obs_onnx.io.json_file import jsonable
from obs_onnx.report import format as fmt
from obs_onnx.report.frontier_table import COLUMNS, frontier_line, frontier_rows
from obs_onnx.report.page.svg import Picture
from obs_onnx.report.page.template import filled, render
from obs_onnx.results.frontier import Frontier, Point

__all__ = ["draw_frontier", "render_frontier", "write_frontier_page"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _FOOT = 360.0, 240.0, 46.0, 16.0, 22.0, 34.0
_TICKS = 5  # of an axis, about


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
            "verdict": _verdict(frontier),
            "chart": draw_frontier(frontier),
            "headings": headings,
            "rows": list(zip(rows, files, strict=True)),
            "quality": quality,
            "command": command,
            "environment": jsonable(frontier.environment),
            "options": jsonable(frontier.options),
        },
    )


def write_frontier_page(path: str | os.PathLike[str], frontier: Frontier, command: str | None = None) -> None:
    """Render and write the page, whole or not at all.

    Raises:
        OptionError: the file cannot be written.
    """
    write_text(path, render_frontier(frontier, command))


def _verdict(frontier: Frontier) -> str:
    """One sentence: how many models, and between what cost and quality they lie."""
    cost, kept = TARGETS[frontier.cost], frontier.kept
    if not kept:
        return "Nothing was found that costs less."
    said = [
        f"{len(kept)} smaller models, none of them worse than another in both"
        if kept[1:]
        else "One smaller model"
    ]
    amounts = [cost.drawn(point) for point in (frontier.dense, kept[0], kept[-1])]
    if None not in amounts and amounts[0]:
        shares = [fmt.percent(one / amounts[0], 0) for one in amounts[1:] if one is not None]
        said.append(f"{_between(shares)} of the dense model's {cost.axis}")
    for name, shown in (
        (f"output {ERROR.name}", [fmt.error(point.output_error) for point in (kept[0], kept[-1])]),
        (DROP.label, [fmt.percent(point.accuracy, 2) for point in (frontier.dense, kept[0], kept[-1])]),
    ):
        if fmt.DASH not in shown:
            before = f" ({shown[0]} before)" if len(shown) > 2 else ""
            said.append(f"{name} {_between(shown[-2:])}{before}")
    return f"{', '.join(said)}."


def _between(shown: list[str]) -> str:
    return shown[0] if shown[0] == shown[1] else f"{shown[0]} to {shown[1]}"


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, about as many as an axis has room for."""
    step = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(step))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= step * (1 - 1e-9))
    return [
        step * number for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


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
    room = 0.06 * (high - low) or 0.1 * abs(high) or 0.1
    low, high = max(low - room, 0.0) if low >= 0 else low - room, high + room

    def scaled(place: tuple[float, float]) -> tuple[float, float]:
        x, y = place
        across, up = x / right, (y - low) / (high - low)
        wide, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _FOOT
        return _LEFT + wide * across, _HEIGHT - _FOOT - tall * up

    axis = frontier.metric if frontier.by == METRIC.name and frontier.metric else quality.axis
    picture = Picture(_WIDTH, _HEIGHT, f"{axis} against {cost.axis}. {frontier_line(frontier)}")
    bottom = _HEIGHT - _FOOT
    picture.line([(_LEFT, _TOP), (_LEFT, bottom), (_WIDTH - _RIGHT, bottom)], "axis")
    for x in _ticks(0.0, right):
        picture.text(scaled((x, low))[0], bottom + 12, f"{x:,.6g}", "tick middle")
    for y in _ticks(low, high):
        picture.text(_LEFT - 4, scaled((0, y))[1] + 3, f"{y:,.6g}", "tick end")
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
