"""Results as people read them: text on a terminal, HTML, plots.

In: records of :mod:`obs_onnx.results`. Out: text and files; nothing is measured here. Next:
:mod:`obs_onnx.cli` prints it. Everything is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obs_onnx.io.json_file import write_json
    from obs_onnx.progress import terminal_progress
    from obs_onnx.report.compared import print_comparison
    from obs_onnx.report.console import (
        print_bench,
        print_combinations,
        print_evaluation,
        print_frontier,
        print_inspection,
        print_scores,
    )
    from obs_onnx.report.criterion_plot import check_plot, write_scatter
    from obs_onnx.report.frontier_table import frontier_line
    from obs_onnx.report.page.frontier import write_frontier_page
    from obs_onnx.report.page.html import write_html
    from obs_onnx.report.pruning_text import print_report
    from obs_onnx.report.readable import ReadableReport
    from obs_onnx.results.saved import read_frontier, read_report

__all__ = [
    "ReadableReport",
    "check_plot",
    "frontier_line",
    "print_bench",
    "print_combinations",
    "print_comparison",
    "print_evaluation",
    "print_frontier",
    "print_inspection",
    "print_report",
    "print_scores",
    "read_frontier",
    "read_report",
    "terminal_progress",
    "write_frontier_page",
    "write_html",
    "write_json",
    "write_scatter",
]

_HOMES = {
    "ReadableReport": "obs_onnx.report.readable",
    "check_plot": "obs_onnx.report.criterion_plot",
    "frontier_line": "obs_onnx.report.frontier_table",
    "print_bench": "obs_onnx.report.console",
    "print_combinations": "obs_onnx.report.console",
    "print_comparison": "obs_onnx.report.compared",
    "print_evaluation": "obs_onnx.report.console",
    "print_frontier": "obs_onnx.report.console",
    "print_inspection": "obs_onnx.report.console",
    "print_report": "obs_onnx.report.pruning_text",
    "print_scores": "obs_onnx.report.console",
    "read_frontier": "obs_onnx.results.saved",
    "read_report": "obs_onnx.results.saved",
    "terminal_progress": "obs_onnx.progress",
    "write_frontier_page": "obs_onnx.report.page.frontier",
    "write_html": "obs_onnx.report.page.html",
    "write_json": "obs_onnx.io.json_file",
    "write_scatter": "obs_onnx.report.criterion_plot",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
