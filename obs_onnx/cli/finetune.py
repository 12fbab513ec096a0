"""``obs-onnx finetune``."""

from __future__ import annotations

import os
from typing import Any

import click

import obs_onnx
from obs_onnx import report
from obs_onnx.cli.errors import Behind, tell
from obs_onnx.cli.options import JSON, QUIET, Command, options_from
from obs_onnx.entrypoints.files import check_files
from obs_onnx.entrypoints.options.finetune import FinetuneOptions

__all__ = ["finetune"]


@click.command(cls=Command)
@click.argument("model")
@options_from(FinetuneOptions)
@JSON
@QUIET
def finetune(model: str, json_path: str | None, silent: bool, **options: Any) -> None:
    """Train MODEL a little; zeros of a pruned model stay zeros."""
    options["output"] = options["output"] or f"{os.path.splitext(model)[0]}.finetuned.onnx"
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
    behind.run("the result was not shown", lambda: report.print_evaluation(shown))
    for note in result.notes:
        tell(note)
    behind.end()
