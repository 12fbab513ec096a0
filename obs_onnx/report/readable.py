"""A report that people can read: in one line, as text, as a page."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from obs_onnx.allocation.targets import ERROR, LATENCY, MACS
from obs_onnx.report import format as fmt
from obs_onnx.report.page.html import write_html
from obs_onnx.report.text_writer import label_of
from obs_onnx.results.pruning import Figures, Report

__all__ = ["ReadableReport", "summary_line"]

_ARROW = "->"

N = TypeVar("N", int, float)


@dataclass(frozen=True, repr=False)
class ReadableReport(Report):
    """What a run did and measured, with views of it."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.summary()}>"

    def summary(self) -> str:
        """The run in one line."""
        return summary_line(self)

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the report as one page that needs nothing else.

        Raises:
            OptionError: the file cannot be written.
        """
        write_html(path, self)


def summary_line(report: Report) -> str:
    """What became of the model, in one line: figures before and after, and whether the targets hold."""
    before, after, zeros = report.before, report.after, report.mode == "weights"
    if report.is_dry:
        return f"{report.model}: dry run, nothing was pruned"
    changes = [
        _change(MACS.label, before.macs, after.macs, fmt.count),
        _change(label_of("nonzero"), before.nonzero, after.nonzero, fmt.count) if zeros else "",
        _change(label_of("file_bytes"), before.file_bytes, after.file_bytes, fmt.size),
        _change(LATENCY.label, _median(before), _median(after), fmt.milliseconds),
    ]
    parts = [text for text in changes if text]
    if before.accuracy is not None and after.accuracy is not None:
        parts.append(f"accuracy {fmt.percent(before.accuracy, 2)} {_ARROW} {fmt.percent(after.accuracy, 2)}")
    if report.output_error is not None:
        parts.append(f"output {ERROR.name} {fmt.error(report.output_error)}")
    wanted = ", ".join(f"{name}={value}" for name, value in report.targets.items())
    if wanted:
        parts.append(f"{wanted} {'reached' if report.met else 'NOT reached'}")
    return f"{report.model} {_ARROW} {report.output or 'memory'}: {', '.join(parts)}"


def _median(figures: Figures) -> float | None:
    return None if figures.latency_ms is None else figures.latency_ms.median


def _change(label: str, before: N | None, after: N | None, shown: Callable[[N | None], str]) -> str:
    """A figure before and after; nothing where it was not measured."""
    if before is None or after is None:
        return ""
    factor = f" ({fmt.times(before, after)})" if before else ""
    return f"{label} {shown(before)} {_ARROW} {shown(after)}{factor}"
