"""Damage curves, and where a result stands on them."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree

import pytest

from obs_onnx.report.page.curves import CURVES, draw_curves
from obs_onnx.results.pruning import CurvePoint, GroupResult, Report


def group(name: str, damages: tuple[float, ...], kept: int = 5, expected: float | None = 1e-3) -> GroupResult:
    points = tuple(CurvePoint(1 - (i + 1) / 10, damage) for i, damage in enumerate(damages))
    return GroupResult(name, 10, kept, 2, expected, points)


def test_a_curve_rises_and_ends_where_the_largest_damage_is(make_report: Callable[..., Report]) -> None:
    charts, found = draw_curves(make_report(layers=(), groups=(group("a", (0.0, 1e-5, 1e-3, 1.0)),)))
    assert found == len(charts) == 1
    root = ElementTree.fromstring(charts[0])
    _, curve = root.iter("polyline")
    places = [tuple(map(float, pair.split(","))) for pair in str(curve.get("points")).split()]
    heights = [y for _, y in places]
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert heights == sorted(heights, reverse=True)
    assert heights[1] - heights[2] == pytest.approx(2 * (heights[2] - heights[3]) / 3, abs=0.2)
    (dot,) = root.iter("circle")
    assert float(str(dot.get("cx"))) == pytest.approx(75, abs=0.1)
    assert float(str(dot.get("cy"))) == pytest.approx(heights[2], abs=0.1)


def test_those_that_lose_most_come_first_and_the_others_are_counted(
    make_report: Callable[..., Report],
) -> None:
    groups = tuple(group(f"g{i}", (1e-4, 1e-2), expected=1e-6 * (i + 1)) for i in range(CURVES + 5))
    charts, found = draw_curves(make_report(layers=(), groups=groups))
    assert (len(charts), found) == (CURVES, CURVES + 5)
    assert f"g{CURVES + 4}:" in charts[0]


def test_nothing_measured_is_nothing_drawn(make_report: Callable[..., Report]) -> None:
    assert draw_curves(make_report()) == ([], 0)
    nothing = (group("a", ()), group("b", (0.0, 0.0)), group("c", (float("nan"), float("inf"))))
    assert draw_curves(make_report(layers=(), groups=nothing)) == ([], 0)
