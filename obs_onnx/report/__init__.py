"""Results as people read them: text on a terminal, HTML, plots.

In: records of :mod:`obs_onnx.results`. Out: text and files; nothing is measured here. Next:
:mod:`obs_onnx.cli` prints it.
"""

from obs_onnx.io.json_file import write_json
from obs_onnx.progress import terminal_progress
from obs_onnx.report.console import (
    print_bench,
    print_evaluation,
    print_frontier,
    print_inspection,
    print_scores,
)
from obs_onnx.report.html import write_html
from obs_onnx.report.pruning_text import print_report

__all__ = [
    "print_bench",
    "print_evaluation",
    "print_frontier",
    "print_inspection",
    "print_report",
    "print_scores",
    "terminal_progress",
    "write_html",
    "write_json",
]
