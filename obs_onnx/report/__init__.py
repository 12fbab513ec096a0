"""Results as people read them: text on a terminal, HTML, plots.

In: records of :mod:`obs_onnx.results`. Out: text and files; nothing is measured here. Next:
    :mod:`obs_onnx.cli` prints it.
"""

from __future__ import annotations

from obs_onnx.evaluation.model_figures import compressed_bytes
from obs_onnx.io.atomic_files import check_writable
from obs_onnx.io.json_file import write_json
from obs_onnx.progress import Advance, Progress, quiet, terminal_progress
from obs_onnx.report.console import (
    print_bench,
    print_evaluation,
    print_frontier,
    print_inspection,
    print_scores,
)
from obs_onnx.report.html import write_html
from obs_onnx.report.pruning_text import print_report
from obs_onnx.results.pruning import Figures, Latency, LayerResult, Report

__all__ = [
    "Advance",
    "Figures",
    "Latency",
    "LayerResult",
    "Progress",
    "Report",
    "check_writable",
    "compressed_bytes",
    "print_bench",
    "print_evaluation",
    "print_frontier",
    "print_inspection",
    "print_report",
    "print_scores",
    "quiet",
    "terminal_progress",
    "write_html",
    "write_json",
]
