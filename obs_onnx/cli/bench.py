"""``obs-onnx bench``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

import obs_onnx
from obs_onnx import report
from obs_onnx.cli.errors import tell
from obs_onnx.cli.options import JSON, QUIET, Command, options_from
from obs_onnx.entrypoints.files import check_files
from obs_onnx.entrypoints.options.bench import BenchOptions

__all__ = ["bench"]


@click.command(cls=Command)
@click.argument("models", nargs=-1, required=True)
@options_from(BenchOptions)
@JSON
@QUIET
def bench(models: Sequence[str], json_path: str | None, silent: bool, **options: Any) -> None:
    """Time MODELS side by side; ratios are to the first."""
    asked = BenchOptions(**options)
    check_files(models, asked, json_path=json_path)
    result = obs_onnx.bench(list(models), **options)
    rows = result.rows(models)
    if not silent:
        report.print_bench(rows, shapes=result.shapes, timed_on=result.timed_on)
    for reason in () if silent else result.noise:
        tell(f"noisy measurement: {reason}")
    if json_path:
        found = {
            "schema": 1,
            "models": rows,
            "environment": result.environment,
            "noise": result.noise,
            "shapes": result.shapes,
            "timed_on": result.timed_on,
        }
        report.write_json(json_path, found)
