"""What a run found, for people (console, HTML) and for programs (JSON)."""

from __future__ import annotations

from obs_onnx.report.advice import advice
from obs_onnx.report.console import (
    print_bench,
    print_evaluation,
    print_frontier,
    print_inspection,
    print_report,
    print_scores,
)
from obs_onnx.report.files import check_writable, compressed_bytes, write_json
from obs_onnx.report.html import write_html
from obs_onnx.report.progress import Advance, Progress, quiet, terminal_progress
from obs_onnx.report.result import Figures, Latency, LayerResult, Report

__all__ = [
    "Advance",
    "Figures",
    "Latency",
    "LayerResult",
    "Progress",
    "Report",
    "advice",
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
