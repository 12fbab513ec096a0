"""``obs-onnx finetune``."""

from __future__ import annotations

import os
from typing import Any

import click

import obs_onnx
from obs_onnx import report
from obs_onnx.cli.options import JSON, QUIET, Command, distinct, options_from
from obs_onnx.entrypoints.options.finetune import FinetuneOptions

__all__ = ["finetune"]


@click.command(cls=Command)
@click.argument("model")
@options_from(FinetuneOptions)
@JSON
@QUIET
def finetune(model: str, output: str | None, json_path: str | None, silent: bool, **options: Any) -> None:
    """Train MODEL a little; zeros of a pruned model stay zeros."""
    output = output or f"{os.path.splitext(model)[0]}.finetuned.onnx"
    distinct(model, output, json_path, options["checkpoint"], options["teacher"])
    progress = report.terminal_progress(silent=silent)
    result = obs_onnx.finetune(model, output=output, progress=progress, **options).report
    report.print_evaluation(
        {
            "model": output,
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
        report.write_json(json_path, result.to_json())
