"""Pictures are well-formed whatever they are given."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from obs_onnx.report.page.svg import Picture, number, shortened, without_ending


def test_text_is_escaped_and_what_does_not_show_is_written_out() -> None:
    picture = Picture(10, 20, 'a < "b" & \x07')
    picture.text(1, 2.25, "<script>\x00\u202e", "name", "tip & <more>")
    picture.rectangle(0, 0, -3, 4, "kept")
    picture.line([(0, 1), (2.04, 3)], "curve")
    root = ElementTree.fromstring(picture.markup())
    assert (root.get("viewBox"), root.get("aria-label")) == ("0 0 10 20", 'a < "b" & \\x07')
    title, text, box, line = root
    assert title.text == root.get("aria-label")
    assert text.text == r"<script>\x00\u202e"
    assert text[0].text == "tip & <more>"
    assert box.get("width") == "0"
    assert line.get("points") == "0,1 2,3"


@pytest.mark.parametrize(("value", "text"), [(1.0, "1"), (0.25, "0.2"), (-3.96, "-4")])
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_names() -> None:
    assert shortened("conv1", 8) == "conv1"
    assert shortened("/features/0/conv/weight", 11) == "/fe…/weight"
    assert len(shortened("x" * 500, 11)) == 11
    assert without_ending(["a.1.weight", "b.weight"]) == ["a.1", "b"]
    assert without_ending(["a.weight", "b.bias"]) == ["a.weight", "b.bias"]
    assert without_ending([".weight", "w"]) == [".weight", "w"]
    assert without_ending([]) == []
