"""Templates: text is escaped; columns without anything go."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from jinja2 import UndefinedError

from obs_onnx.report.page.html import render_html
from obs_onnx.report.page.template import filled, render
from obs_onnx.results.pruning import Report


def test_columns_without_anything_go() -> None:
    rows = [("a", "-", "1", ""), ("b", "-", "-", "")]
    assert filled(("model", "accuracy", "error", "metric"), rows) == (
        ("model", "error"),
        [("a", "1"), ("b", "-")],
    )
    assert filled(("model",), []) == ((), [])


def test_a_value_that_a_page_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("page.html", {})


def test_numbers_keep_their_units_and_paths_break_between_their_parts(
    make_report: Callable[..., Report],
) -> None:
    page = render_html(make_report(model="a/<b>/c.onnx"))
    assert "a/<wbr>&lt;b&gt;/<wbr>c.onnx &rarr;" in page
    assert "<td>1.00&nbsp;ms</td>" in page
    assert "0.9..<wbr>1.2&nbsp;ms" in page or "0.90..<wbr>1.20&nbsp;ms" in page
