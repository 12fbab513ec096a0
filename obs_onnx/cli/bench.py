"""``obs-onnx bench``."""

from __future__ import annotations

from collections.abc import Sequence

import click

import obs_onnx
from obs_onnx import io, report
from obs_onnx.cli.options import JSON, Command, TitledOption, distinct, options_from
from obs_onnx.latency.options import TimedBatch
from obs_onnx.runtimes import open_runtime
from obs_onnx.runtimes.options import RuntimeOptions

__all__ = ["bench"]


@click.command(cls=Command)
@click.argument("models", nargs=-1, required=True)
@options_from(RuntimeOptions)
@options_from(TimedBatch)
@click.option(
    "--seconds",
    cls=TitledOption,
    title="Measuring",
    type=click.FloatRange(0.05),
    default=3.0,
    show_default=True,
    help="Per model.",
)
@JSON
def bench(
    models: Sequence[str],
    runtime: str,
    threads: int | None,
    custom_ops: Sequence[str],
    custom_domains: Sequence[str],
    batch: int,
    seconds: float,
    json_path: str | None,
) -> None:
    """Time MODELS side by side; ratios are to the first."""
    for path in models:
        distinct(path, json_path)
        io.load_model(path, custom_domains=custom_domains)
    where = open_runtime(runtime, threads, custom_ops)
    result = obs_onnx.bench(models, where, batch=batch, seconds=seconds)
    rows = result.rows(models)
    report.print_bench(rows)
    for reason in result.noise:
        click.echo(f"obs-onnx: noisy measurement: {reason}", err=True)
    if json_path:
        found = {"schema": 1, "models": rows, "environment": result.environment, "noise": result.noise}
        report.write_json(json_path, found)
