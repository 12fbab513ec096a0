"""The page: one file, names escaped, plots where matplotlib is there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from obs_onnx.report.html import render_html
from obs_onnx.results.pruning import LayerResult, Report

TRAP = "/net/[bold]conv$_1$/<script>alert(1)</script>/weight"


def test_html_is_self_contained_and_escapes_names(make_report: Callable[..., Report]) -> None:
    layer = LayerResult(TRAP, "Conv", (64, 64, 3, 3), 36864, 0.5, 0.01, 0.02)
    report = make_report(layers=(layer,))
    page = render_html(report)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page
    assert page.count("<img") == page.count('src="data:image/svg+xml;base64,') == 2
    assert page == render_html(report)
    assert "<img" not in render_html(report, plots=False)
    assert "rnn</td><td>LSTM</td>" in render_html(report, plots=False)


def test_html_needs_no_matplotlib(
    monkeypatch: pytest.MonkeyPatch, make_report: Callable[..., Report]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    page = render_html(make_report())
    assert "<img" not in page
    assert "fc1.weight" in page
