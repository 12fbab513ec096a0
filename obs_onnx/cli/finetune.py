"""``obs-onnx finetune``."""

from __future__ import annotations

from typing import Any

import click

import obs_onnx
from obs_onnx import report
from obs_onnx.cli.errors import Behind, tell
from obs_onnx.cli.options import CONFIG, JSON, OUT, QUIET, SUMMARY, Command, options_from
from obs_onnx.cli.values import beside
from obs_onnx.entrypoints.files import check_files
from obs_onnx.entrypoints.options.finetune import FinetuneOptions
from obs_onnx.io.paths import finetuned_path
from obs_onnx.passes.printable import printable

__all__ = ["finetune"]


@click.command(cls=Command)
@click.argument("model")
@OUT
@options_from(FinetuneOptions)
@JSON
@SUMMARY
@CONFIG
@QUIET
def finetune(model: str, json_path: str | None, brief: bool, silent: bool, **options: Any) -> None:
    """Train MODEL a little; zeros of a pruned model stay zeros.

    OUT is the same as --output.
    """
    options["output"] = options["output"] or beside(model, finetuned_path)
    check_files(model, FinetuneOptions(**options), json_path=json_path)
    progress = report.terminal_progress(silent=silent)
    result = obs_onnx.finetune(model, progress=progress, **options).report
    behind = Behind(options["output"])
    if json_path:
        behind.run(f"{json_path} was not written", lambda: report.write_json(json_path, result.to_json()))
    shown = {
        "model": options["output"],
        "loss_before": result.before.loss,
        "loss": result.after.loss,
        "accuracy_before": result.before.accuracy,
        "accuracy": result.after.accuracy,
        "steps": result.steps,
        "ms_per_step": result.ms_per_step,
    }
    if brief:
        behind.run("the result was not shown", lambda: click.echo(printable(result.summary())))
    elif not silent:
        behind.run("the result was not shown", lambda: report.print_evaluation(shown))
    for note in () if silent or brief else result.notes:
        tell(f"note: {note}")
    behind.end()
