"""``obs-onnx bench``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from obs_onnx.cli.options import BATCH, JSON, RUNTIME, distinct, guarded

__all__ = ["bench"]


@click.command()
@click.argument("models", nargs=-1, required=True)
@RUNTIME
@BATCH
@click.option("--seconds", type=click.FloatRange(0.05), default=3.0, show_default=True, help="Per model.")
@JSON
@guarded
def bench(
    models: Sequence[str],
    runtime: str,
    threads: int | None,
    custom_ops: Sequence[str],
    custom_domain: Sequence[str],
    batch: int,
    seconds: float,
    json_path: str | None,
) -> None:
    """Time MODELS side by side; ratios are to the first."""
    from obs_onnx.io.onnx_file import load_model
    from obs_onnx.latency.benchmark import bench as run
    from obs_onnx.report import print_bench, write_json
    from obs_onnx.runtimes import open_runtime

    for path in models:
        distinct(path, json_path)
        load_model(path, custom_domains=custom_domain)
    result = run(models, open_runtime(runtime, threads, custom_ops), batch=batch, seconds=seconds)
    rows = result.rows(models)
    print_bench(rows)
    for reason in result.noise:
        click.echo(f"obs-onnx: noisy measurement: {reason}", err=True)
    if json_path:
        write_json(
            json_path, {"schema": 1, "models": rows, "environment": result.environment, "noise": result.noise}
        )
