"""Templates: text is escaped; columns without anything go."""

from __future__ import annotations

import pytest
from jinja2 import UndefinedError

from obs_onnx.report.page.template import filled, render


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
