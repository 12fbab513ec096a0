"""``obs-onnx eval``."""

from __future__ import annotations

from collections.abc import Sequence

import click

import obs_onnx
from obs_onnx import io, report
from obs_onnx.cli.options import JSON, Command, TitledOption, distinct, options_from
from obs_onnx.data.options import Labelled
from obs_onnx.runtimes import open_runtime
from obs_onnx.runtimes.options import RuntimeOptions

__all__ = ["evaluate"]


@click.command("eval", cls=Command)
@click.argument("model")
@click.option("--data", cls=TitledOption, common=2, required=True, metavar="SRC", help="Evaluation data.")
@options_from(Labelled, "labels")
@click.option(
    "--against",
    cls=TitledOption,
    common=4,
    metavar="MODEL2",
    help="Reference model for output error and agreement.",
)
@options_from(RuntimeOptions)
@JSON
def evaluate(
    model: str,
    data: str,
    labels: str | None,
    against: str | None,
    runtime: str,
    threads: int | None,
    custom_ops: Sequence[str],
    custom_domains: Sequence[str],
    json_path: str | None,
) -> None:
    """Measure the accuracy of MODEL, and how far it is from a reference."""
    for path in (model, against):
        if path is not None:
            distinct(path, json_path)
            io.load_model(path, custom_domains=custom_domains)
    where = open_runtime(runtime, threads, custom_ops)
    result = obs_onnx.evaluate(model, data, labels_key=labels, against=against, runtime=where)
    report.print_evaluation(result.to_json())
    if json_path:
        report.write_json(json_path, {"schema": 1, "model": model, "against": against, **result.to_json()})
