"""``obs-onnx prune``."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

import obs_onnx
from obs_onnx import report
from obs_onnx.cli.errors import EXIT_TARGET
from obs_onnx.cli.options import JSON, QUIET, Command, TitledOption, distinct, options_from
from obs_onnx.cli.values import WrittenFile
from obs_onnx.entrypoints.options.prune import PruneOptions

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
    type=WrittenFile(),
    help="Write the result as a page.",
)
@QUIET
def prune(model: str, json_path: str | None, html_path: str | None, silent: bool, **options: Any) -> None:
    """Prune MODEL and write a smaller one.

    Exit code 0: done; 2: bad input or usage; 3: a target could not be met.
    """
    output = options["output"] or f"{os.path.splitext(model)[0]}.pruned.onnx"
    keep = f"{os.path.splitext(output)[0]}.keep.json" if options["mode"] == "channels" else None
    int8 = f"{os.path.splitext(output)[0]}.int8.onnx" if options["quantize"] else None
    distinct(model, output, keep, int8, json_path, html_path)
    result = obs_onnx.prune(model, progress=report.terminal_progress(silent=silent), **options)
    report.print_report(result.report)
    if json_path:
        report.write_json(json_path, result.report.to_json())
    if html_path:
        report.write_html(html_path, result.report)
    if not result.report.met and not options["dry_run"]:
        click.echo("obs-onnx: a target could not be met; the report says what was reached", err=True)
        sys.exit(EXIT_TARGET)
