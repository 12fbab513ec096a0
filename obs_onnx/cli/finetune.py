"""``obs-onnx finetune``."""

from __future__ import annotations

import os
from typing import Any

import click

import obs_onnx
from obs_onnx import report
from obs_onnx.cli.errors import after_result
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
    report.print_evaluation(
        {
            "model": options["output"],
            "loss_before": result.before.loss,
            "loss": result.after.loss,
            "accuracy_before": result.before.accuracy,
            "accuracy": result.after.accuracy,
            "steps": result.steps,
            "ms_per_step": result.ms_per_step,
        }
    )
    for note in result.notes:
        click.echo(f"obs-onnx: {note}", err=True)
    if json_path:
        with after_result(options["output"]):
            report.write_json(json_path, result.to_json())
