"""The page: one file that a browser can read, names escaped, nothing empty."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from obs_onnx.passes.layers.layer import Frozen
from obs_onnx.report.page.html import render_html
from obs_onnx.results.pruning import CurvePoint, Figures, GroupResult, LayerResult, Missed, Report

TRAP = "/net/[bold]conv$_1$/<script>alert(1)</script>/\"'&weight"
VOID = {"meta"}


class Tags(HTMLParser):
    """Tags that are open, and what was found wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(page: str) -> list[tuple[str, dict[str, str | None]]]:
    """All tags with their attributes; each is closed in its place."""
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags.seen


@pytest.fixture
def channels(make_report: Callable[..., Report]) -> Report:
    curve = tuple(CurvePoint(kept, 1e-4 / kept) for kept in (0.9, 0.5, 0.1))
    return make_report(
        mode="channels",
        layers=(
            LayerResult(TRAP, "Conv", (8, 3, 3, 3), 216, 0.5, widths=(3, 8), kept_widths=(3, 4), writes=TRAP),
            LayerResult(
                "b",
                "Conv",
                (8, 8, 3, 3),
                576,
                0.25,
                widths=(8, 8),
                kept_widths=(4, 4),
                reads=TRAP,
                writes=TRAP,
            ),
        ),
        groups=(GroupResult(TRAP, 8, 4, 3, 2e-4, curve),),
        targets={"macs": 0.5},
        reached={"macs": 0.45},
        frozen=(Frozen(TRAP, "LSTM", TRAP),),
        notes=(TRAP,),
        alerts=(TRAP,),
        failures=(TRAP,),
        options={"protect": [TRAP]},
        environment={"runtime": TRAP},
    )


def test_the_page_is_one_file_and_escapes_what_comes_from_the_model(channels: Report) -> None:
    page = render_html(channels)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    for outside in ("http:", "https:", "//cdn", "url(", "@import", "<link", "<img"):
        assert outside not in page
    assert page == render_html(channels)
    parsed(page)


def test_it_is_for_phones_and_the_dark_and_paper_and_for_those_who_cannot_see(channels: Report) -> None:
    page = render_html(channels)
    for part in ("prefers-color-scheme: dark", "@media print", "width=device-width", 'lang="en"'):
        assert part in page
    seen = parsed(page)
    heads = [attributes for tag, attributes in seen if tag == "th"]
    assert heads
    assert all(one.get("scope") in ("col", "row") for one in heads)
    pictures = [attributes for tag, attributes in seen if tag == "svg"]
    assert len(pictures) == 2
    assert all(one["role"] == "img" and one["aria-label"] for one in pictures)
    assert "nowrap" in re.search(r"th, td \{[^}]*\}", page)[0]  # type: ignore[index]


def test_there_are_no_empty_columns(channels: Report, make_report: Callable[..., Report]) -> None:
    heads = re.findall(r'<th scope="col">([^<]*)</th>', render_html(channels).partition("<h2>Layers</h2>")[2])
    assert heads[:6] == ["layer", "operator", "shape", "channels in, out", "weights", "weights kept"]
    assert "measured error" not in heads
    weights = render_html(make_report())
    heads = re.findall(r'<th scope="col">([^<]*)</th>', weights.partition("<h2>Layers</h2>")[2])
    assert heads[5:8] == ["predicted error", "measured error", "method"]
    assert "channels in, out" not in heads
    assert "<svg" not in weights  # nothing says how wide its layers are
    parsed(weights)


def test_what_was_asked_and_reached(channels: Report, make_report: Callable[..., Report]) -> None:
    assert "reached, 0.45" in render_html(channels)
    missed = make_report(met=False, missed=(Missed("sparsity", 0.75, 0.5),))
    page = render_html(missed)
    assert "Target sparsity=0.75 is missed: 0.5 was reached." in page
    assert 'class="verdict missed"' in page


def test_figures_that_nobody_measured_have_no_bar(make_report: Callable[..., Report]) -> None:
    bare = Figures(100, 100, None, None)
    page = render_html(make_report(before=bare, after=bare, output_error=None, agreement=None, bound=None))
    assert page.count('<div class="label">') == 1
    parsed(page)


def test_it_needs_no_matplotlib(monkeypatch: pytest.MonkeyPatch, channels: Report) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "<svg" in render_html(channels)


def test_a_dry_run_has_neither_reached_nor_missed(make_report: Callable[..., Report]) -> None:
    page = render_html(make_report(output=None, layers=(), met=False))
    assert "not tried, this is a dry run" in page
    assert 'class="verdict"' in page
    assert "not reached" not in page
    parsed(page)


def luminance(color: str) -> float:
    """Relative luminance of ``#rgb`` or ``#rrggbb``, as WCAG 2 defines it."""
    digits = color.lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_colours_stand_out_in_light_in_the_dark_and_on_paper(make_report: Callable[..., Report]) -> None:
    schemes = re.findall(r":root \{(.*?)\}", render_html(make_report()), re.DOTALL)
    assert len(schemes) == 3
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#\w+)", scheme))
        for name, color in colours.items():
            low, high = sorted((luminance(color), luminance(colours["paper"])))
            least = 4.5 if name in ("ink", "soft", "good", "bad") else 3.0
            if name not in ("paper", "line", "dense", "flow"):  # behind others, or with a border
                assert (high + 0.05) / (low + 0.05) >= least, name
