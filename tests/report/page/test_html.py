"""The page: one file that a browser can read, names escaped, nothing empty."""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from obs_onnx.passes.layers.layer import Frozen
from obs_onnx.report.page.html import render_html
from obs_onnx.results.pruning import (
    Combination,
    CurvePoint,
    Figures,
    GroupResult,
    LayerResult,
    Missed,
    PartError,
    Report,
)
from obs_onnx.results.samples import ChangedSample

TRAP = "/net/[bold]conv$_1$/<script>alert(1)</script>/\"'&weight"
VOID = {"meta", "img", "wbr"}


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
        groups=(GroupResult(TRAP, 8, 4, 3, 2e-4, curve, stays=(0, 2, 4, 6)),),
        targets={"macs": 0.5},
        reached={"macs": 0.45},
        frozen=(Frozen(TRAP, "LSTM", TRAP),),
        notes=(TRAP,),
        alerts=(TRAP,),
        failures=(TRAP,),
        options={"protect": [TRAP]},
        environment={"runtime": TRAP},
        parts=(PartError(TRAP, "y", "n", "spread", 1.0, 1.0, 0.05, 2.0),),
        combinations=(Combination("dense", 400, 0.9), Combination("dense int8", 100, 0.8)),
        changed=(
            ChangedSample(3, 1, 2, 0.9, 0.5, 1, {TRAP: base64.b64encode(b"png").decode()}, {TRAP: TRAP}),
        ),
    )


def test_the_page_is_one_file_and_escapes_what_comes_from_the_model(channels: Report) -> None:
    page = render_html(channels)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    for outside in ("http:", "https:", "//cdn", "url(", "@import", "<link"):
        assert outside not in page
    assert all(
        str(one["src"]).startswith("data:image/png;base64,") for tag, one in parsed(page) if tag == "img"
    )
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
    assert len(pictures) == 3
    assert all(one["role"] == "img" and one["aria-label"] for one in pictures)
    assert len(re.findall(r"<svg [^>]*><title>[^<]+</title>", page)) == 3
    assert all(one["alt"] for tag, one in seen if tag == "img")
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


def tables(page: str) -> list[tuple[list[str], list[list[str]]]]:
    """Headings and rows of all tables, as text."""
    found = []
    for table in re.findall(r"<table[^>]*>(.*?)</table>", page, re.DOTALL):
        head, _, body = table.partition("<tbody>")
        rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in body.split("</tr>")[:-1]]
        found.append((re.findall(r"<th[^>]*>(.*?)</th>", head, re.DOTALL), rows))
    return found


def test_every_table_has_headers_and_no_column_is_empty(
    channels: Report, make_report: Callable[..., Report]
) -> None:
    for page in (render_html(channels), render_html(make_report())):
        assert page.count("<table") == page.count('role="region" tabindex="0" aria-label="')
        for heads, rows in tables(page):
            assert rows
            assert all(len(row) == (len(heads) or 2) for row in rows)
            for column in range(1, len(heads)):
                assert any(row[column] not in ("", "-") for row in rows), heads[column]


def test_samples_that_changed(channels: Report, make_report: Callable[..., Report]) -> None:
    page = render_html(channels)
    assert "Sample 3: class 1 (90&nbsp;%) &rarr; class 2\n(50&nbsp;%), labelled 1" in page
    assert "Samples that changed" not in render_html(make_report())


def test_integers_beside_floats(channels: Report) -> None:
    page = render_html(channels)
    (lanes,) = re.findall(r'<div class="bars lanes".*?\n</div>\n', page, re.DOTALL)
    assert re.findall(r"width:([\d.]+)%", lanes) == ["100.0", "25.0"]
    assert "dense int8" in lanes


def test_paper_has_the_last_word(channels: Report) -> None:
    """What is for print stands behind what is for the screen, which it replaces."""
    style = render_html(channels).partition("<style>")[2].partition("</style>")[0]
    assert style.rindex("@media") == style.index("@media print")
    assert style.index("@media print") > style.index("svg text")


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
