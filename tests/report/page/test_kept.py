"""Strips of channels: what stays is filled, as wide as it is."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from obs_onnx.report.page.kept import STRIPS, draw_kept
from obs_onnx.results.pruning import GroupResult


def cells(svg: str) -> list[tuple[str, float, float]]:
    """Class, start and width of every rectangle, in units of the strip."""
    boxes = [one for one in ElementTree.fromstring(svg) if one.tag == "rect"]
    left, room = float(boxes[0].get("x", "")), float(boxes[0].get("width", ""))
    return [
        (one.get("class", ""), (float(one.get("x", "")) - left) / room, float(one.get("width", "")) / room)
        for one in boxes
    ]


def test_channels_of_a_small_group_have_a_cell_each() -> None:
    svg, left_out = draw_kept([GroupResult("a", 10, 4, 2, stays=(0, 1, 5, 9))])
    assert left_out == 0
    rest, *kept = cells(svg)
    assert rest == ("rest", 0.0, 1.0)
    assert [kind for kind, *_ in kept] == ["h4", "h4", "h4"]
    assert [round(10 * x) for _, x, _ in kept] == [0, 5, 9]
    assert [round(10 * width) for *_, width in kept] == [2, 1, 1]
    assert "a: 4 of 10 channels stay" in svg
    assert ">4 / 10<" in svg


def test_a_cell_of_several_channels_is_as_full_as_they_are() -> None:
    svg, _ = draw_kept([GroupResult("a", 360, 90, 2, stays=tuple(range(0, 360, 4)))])
    assert cells(svg)[1:] == [("h1", 0.0, pytest.approx(1.0, abs=1e-3))]


def test_a_group_that_is_gone_has_an_empty_strip_and_unknown_ones_have_none() -> None:
    svg, _ = draw_kept(
        [GroupResult("gone", 8, 0, 1), GroupResult("old", 8, 4, 1), GroupResult("a", 2, 2, 1, stays=(0, 1))]
    )
    assert [kind for kind, *_ in cells(svg)] == ["rest", "rest", "h4"]
    assert "old" not in svg
    assert draw_kept([GroupResult("old", 8, 4, 1)]) == ("", 0)


def test_only_the_widest_are_shown() -> None:
    groups = [GroupResult(f"g{i}", i + 1, 1, 1, stays=(0,)) for i in range(STRIPS + 3)]
    svg, left_out = draw_kept(groups)
    assert left_out == 3
    assert ">g2<" not in svg
    assert svg.index(">g3<") < svg.index(f">g{STRIPS + 2}<")
