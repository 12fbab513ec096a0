"""``obs-onnx eval``."""

from __future__ import annotations

from typing import Any

import click

import obs_onnx
from obs_onnx import io, report
from obs_onnx.cli.options import JSON, QUIET, Command, options_from
from obs_onnx.entrypoints.files import check_files
from obs_onnx.entrypoints.options.evaluate import EvaluateOptions

__all__ = ["evaluate"]


@click.command("eval", cls=Command)
@click.argument("model")
@options_from(EvaluateOptions)
@JSON
@QUIET
def evaluate(model: str, json_path: str | None, silent: bool, **options: Any) -> None:
    """Measure the accuracy of MODEL, and how far it is from a reference."""
    asked = EvaluateOptions(**options)
    check_files(model, asked, json_path=json_path)
    for path in (model, options["against"]):
        if path is not None:
            io.load_model(path, custom_domains=None if options["against"] else asked.custom_domains)
    result = obs_onnx.evaluate(model, **options)
    if not silent:
        report.print_evaluation(result.to_json())
    if json_path:
        about = {"schema": 1, "model": model, "against": options["against"]}
        report.write_json(json_path, {**about, **result.to_json()})
