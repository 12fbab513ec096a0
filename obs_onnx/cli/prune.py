"""``obs-onnx prune``."""

from __future__ import annotations

import sys
from typing import Any

import click

import obs_onnx
from obs_onnx import report
from obs_onnx.cli.errors import EXIT_TARGET, after_result, tell
from obs_onnx.cli.options import JSON, QUIET, Command, TitledOption, options_from
from obs_onnx.cli.values import WrittenFile
from obs_onnx.entrypoints.files import check_files
from obs_onnx.entrypoints.options.prune import PruneOptions
from obs_onnx.io.atomic_files import together

__all__ = ["prune"]


@click.command(cls=Command)
@click.argument("model")
@options_from(PruneOptions)
@JSON
@click.option(
    "--report",
    "html_path",
    cls=TitledOption,
    metavar="PATH.html",
    form="file",
    type=WrittenFile(),
    help="Write the result as a page.",
)
@QUIET
def prune(model: str, json_path: str | None, html_path: str | None, silent: bool, **options: Any) -> None:
    """Prune MODEL and write a smaller one.

    Exit code 0: done; 2: bad input or usage; 3: a target could not be met.
    """
    check_files(model, PruneOptions(**options), json_path=json_path, html_path=html_path)
    result = obs_onnx.prune(model, progress=report.terminal_progress(silent=silent), **options)
    report.print_report(result.report)
    with after_result(result.report.output), together() as files:
        if json_path:
            report.write_json(json_path, result.report.to_json(), files)
        if html_path:
            report.write_html(html_path, result.report, files=files)
    if not result.report.met and not options["dry_run"]:
        for one in result.report.missed:
            tell(f"target {one}")
        sys.exit(EXIT_TARGET)
