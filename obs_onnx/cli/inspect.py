"""``obs-onnx inspect``."""

from __future__ import annotations

from typing import Any

import click

import obs_onnx
from obs_onnx import report
from obs_onnx.cli.options import JSON, QUIET, Command, options_from
from obs_onnx.entrypoints.files import check_files
from obs_onnx.entrypoints.options.inspect import InspectOptions

__all__ = ["inspect"]


@click.command(cls=Command)
@click.argument("model")
@JSON
@options_from(InspectOptions)
@QUIET
def inspect(model: str, json_path: str | None, silent: bool, **options: Any) -> None:
    """Show the layers and channels of MODEL, and what is left alone and why."""
    check_files(model, InspectOptions(**options), json_path=json_path)
    result = obs_onnx.inspect(model, **options)
    if not silent:
        report.print_inspection(
            model,
            result.layers,
            result.frozen,
            result.totals,
            groups=result.groups,
            frozen_channels=result.frozen_channels,
            shapes=result.shapes,
            free=result.free,
        )
    if json_path:
        report.write_json(json_path, result.to_json())
