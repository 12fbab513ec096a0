"""``obs-onnx replay``."""

from __future__ import annotations

from typing import Any

import click

import obs_onnx
from obs_onnx import report
from obs_onnx.cli.errors import tell
from obs_onnx.cli.options import Command, options_from
from obs_onnx.entrypoints.options.replay import ReplayOptions

__all__ = ["replay"]


@click.command(cls=Command)
@click.argument("keep")
@click.argument("model")
@options_from(ReplayOptions)
def replay(keep: str, model: str, **options: Any) -> None:
    """Remove the channels that KEEP, a keep.json, leaves out from MODEL; nothing is refitted."""
    result = obs_onnx.replay(model, keep, **options)
    report.print_evaluation({"model": model, "output": str(result.output)})
    for note in result.notes:
        tell(note)
