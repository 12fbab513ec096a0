"""Damage curves, one small chart for each group or layer, and where it stands on its curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from obs_onnx.report import format as fmt
from obs_onnx.report.page.svg import Picture, shortened
from obs_onnx.results.pruning import CurvePoint, Report

__all__ = ["CURVES", "Chart", "draw_curves"]

CURVES = 24  # charts at most, those first whose removal is reckoned to cost most
_WIDTH, _HEIGHT, _TOP, _FOOT = 150.0, 92.0, 18.0, 14.0
_LETTERS, _DECADES = 24, 6  # of a name; below the largest damage that is shown


@dataclass(frozen=True)
class Chart:
    """What one chart shows.

    Attributes:
        name: of the group or the layer.
        points: of the curve.
        kept: share that is left in the end.
        damage: that was reckoned with it.
    """

    name: str
    points: tuple[CurvePoint, ...]
    kept: float
    damage: float | None = None


def draw_curves(report: Report) -> tuple[list[str], int]:
    """Charts of what was measured, on one scale, and how many there would be without a limit."""
    charts = [
        Chart(group.name, group.curve, group.kept / max(group.channels, 1), group.expected_damage)
        for group in report.groups
    ]
    charts += [Chart(layer.name, layer.curve, layer.kept) for layer in report.layers]
    charts = [chart for chart in charts if any(_is_shown(point.damage) for point in chart.points)]
    charts.sort(key=lambda chart: -_at(chart))
    most = max((p.damage for chart in charts for p in chart.points if _is_shown(p.damage)), default=1.0)
    return [_draw(chart, most) for chart in charts[:CURVES]], len(charts)


def _is_shown(damage: float) -> bool:
    return math.isfinite(damage) and damage > 0


def _at(chart: Chart) -> float:
    """Damage where a chart ends."""
    if chart.damage is not None:
        return chart.damage
    return min(chart.points, key=lambda point: abs(point.kept - chart.kept)).damage


def _draw(chart: Chart, most: float) -> str:
    """Damage on a logarithmic axis against the share that goes."""
    tip = f"{chart.name}: {fmt.percent(chart.kept)} are left, damage {fmt.error(_at(chart))}"
    picture = Picture(_WIDTH, _HEIGHT, f"Damage against what is removed of {tip}")
    bottom, height = _HEIGHT - _FOOT, _HEIGHT - _FOOT - _TOP

    def place(kept: float, damage: float) -> tuple[float, float]:
        decades = math.log10(most / damage) if _is_shown(damage) else _DECADES
        share = min(max(1 - decades / _DECADES, 0.0), 1.0)
        return 2 + (_WIDTH - 4) * min(max(1 - kept, 0.0), 1.0), bottom - height * share

    picture.line([(2, _TOP), (2, bottom), (_WIDTH - 2, bottom)], "axis")
    points: Sequence[CurvePoint] = sorted(chart.points, key=lambda point: -point.kept)
    picture.line([place(point.kept, point.damage) for point in points], "curve", tip)
    picture.dot(*place(chart.kept, _at(chart)), "here", tip)
    picture.text(0, 11, shortened(chart.name, _LETTERS), "name", tip)
    picture.text(2, _HEIGHT - 3, "0 % removed", "tick")
    picture.text(_WIDTH, _HEIGHT - 3, "100 %", "tick end")
    return picture.markup()
