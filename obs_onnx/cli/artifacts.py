"""``obs-onnx artifacts``."""

from __future__ import annotations

from typing import Any

import click

import obs_onnx
from obs_onnx import report
from obs_onnx.cli.errors import Behind
from obs_onnx.cli.options import JSON, QUIET, Command, options_from
from obs_onnx.entrypoints.files import check_files
from obs_onnx.entrypoints.options.artifacts import ArtifactsOptions

__all__ = ["artifacts"]


@click.command(cls=Command)
@click.argument("model")
@options_from(ArtifactsOptions)
@JSON
@QUIET
def artifacts(model: str, output: str, json_path: str | None, silent: bool, **options: Any) -> None:
    """Write what onnxruntime needs to train MODEL on a device.

    DIR gets training_model.onnx, eval_model.onnx, optimizer_model.onnx and checkpoint. Needs
    obs-onnx[training].
    """
    check_files(model, ArtifactsOptions(output, **options), json_path=json_path)
    result = obs_onnx.artifacts(model, output, **options)
    behind = Behind(output)
    if json_path:
        behind.run(f"{json_path} was not written", lambda: report.write_json(json_path, result.to_json()))
    shown = {
        "model": output,
        "files": ", ".join(result.files),
        "bytes": result.bytes,
        "inputs": ", ".join(result.inputs),
        "trained": len(result.trained),
        "zeros": result.masked,
        "gradient_error": result.gradient_error,
    }
    if not silent:
        behind.run("the result was not shown", lambda: report.print_evaluation(shown))
    behind.end()
