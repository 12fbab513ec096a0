"""The page of a frontier: one file, costs grow to the right, no column is empty."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from frontiers import a_frontier, point

from obs_onnx.report.page.frontier import draw_frontier, render_frontier, write_frontier_page


def marks(svg: str, kind: str) -> list[tuple[float, float]]:
    """Places of the dots of a class, or of the middle of its boxes."""
    found = [one for one in ElementTree.fromstring(svg) if one.get("class") == kind]
    return [
        (float(one.get("cx", "")), float(one.get("cy", "")))
        if one.tag == "circle"
        else (float(one.get("x", "")) + 3.5, float(one.get("y", "")) + 3.5)
        for one in found
    ]


def test_models_lie_where_they_cost_and_lose() -> None:
    svg = draw_frontier(a_frontier())
    (dense,), kept, (lost,) = marks(svg, "here"), marks(svg, "point"), marks(svg, "lost")
    assert dense[0] > kept[0][0] > lost[0] > kept[1][0]  # 4, 3, 2.9 and 1 ms
    assert lost[1] < kept[1][1] < kept[0][1] < dense[1]  # errors of 0.2, 0.1, 0.01 and 0: upwards
    (line,) = [one for one in ElementTree.fromstring(svg) if one.get("class") == "curve"]
    assert len(line.get("points", "").split()) == 3
    assert "latency" in svg


def test_nothing_to_draw() -> None:
    assert draw_frontier(a_frontier(points=())) == ""
    assert draw_frontier(a_frontier(points=(point(None, 0.1, 5),))) == ""
    page = render_frontier(a_frontier(points=()))
    assert "<svg" not in page
    assert 'class="verdict missed"' in page


def test_the_page_is_one_file_and_escapes_what_comes_from_the_model(tmp_path: Path) -> None:
    trap = "<script>alert(1)</script>"
    changed = a_frontier(model=trap, notes=(trap,), alerts=(trap,), failures=(trap,), options={"cut": [trap]})
    write_frontier_page(tmp_path / "f.html", changed, command=f"obs-onnx pareto {trap}")
    page = (tmp_path / "f.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.search(r"https?:|url\(|@import|<link", page)
    heads = re.findall(r"<th scope=\"col\"[^>]*>([^<]*)</th>", page)
    assert heads[0] == "model"
    assert "metric" not in heads  # nobody measured it
    assert page == render_frontier(changed, f"obs-onnx pareto {trap}")


def test_one_sentence_and_round_ticks() -> None:
    page = render_frontier(a_frontier())
    assert (
        "2 smaller models, none of them worse than another in both, "
        "75 % to 25 % of the dense model&#39;s latency"
    ) in page
    assert "output error 0.01 to 0.1" in page
    svg = draw_frontier(a_frontier())
    ticks = [one.text for one in ElementTree.fromstring(svg) if "tick middle" in one.get("class", "")]
    assert ticks == ["0", "1", "2", "3", "4"]
    assert "Nothing was found that costs less." in render_frontier(a_frontier(points=()))
