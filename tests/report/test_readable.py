"""A report in one line, as a page, and in a shell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from obs_onnx.report.readable import ReadableReport, summary_line
from obs_onnx.results.pruning import Report


@pytest.fixture
def readable(make_report: Callable[..., Report]) -> ReadableReport:
    report = make_report()
    return ReadableReport(**{one.name: getattr(report, one.name) for one in fields(report)})


def test_the_line(readable: ReadableReport) -> None:
    assert readable.summary() == (
        "a.onnx -> b.onnx: MACs 90 -> 90 (x 1), non-zero 100 -> 40 (x 0.4), file 1.0 kB -> 1.0 kB (x 1), "
        "latency 1.00 ms -> 1.10 ms (x 1.1), accuracy 98.00 % -> 97.00 %, output error 0.05, "
        "sparsity=0.75 reached"
    )
    assert repr(readable) == f"<ReadableReport: {readable.summary()}>"


def test_a_line_of_little(make_report: Callable[..., Report]) -> None:
    assert summary_line(make_report(output=None, layers=())) == "a.onnx: dry run, nothing was pruned"
    assert "a.onnx -> memory: " in summary_line(make_report(output=None))
    assert summary_line(make_report(met=False)).endswith("sparsity=0.75 NOT reached")


def test_the_page(readable: ReadableReport, tmp_path: Path) -> None:
    readable.to_html(tmp_path / "r.html")
    assert "fc1.weight" in (tmp_path / "r.html").read_text()
