"""``obs-onnx eval``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from obs_onnx.cli.options import JSON, LABELS, RUNTIME, distinct, guarded

__all__ = ["evaluate"]


@click.command("eval")
@click.argument("model")
@click.option("--data", required=True, metavar="SRC", help="Evaluation data.")
@LABELS
@click.option("--against", metavar="MODEL2", help="Reference model for output error and agreement.")
@RUNTIME
@JSON
@guarded
def evaluate(
    model: str,
    data: str,
    labels: str | None,
    against: str | None,
    runtime: str,
    threads: int | None,
    custom_ops: Sequence[str],
    custom_domain: Sequence[str],
    json_path: str | None,
) -> None:
    """Measure the accuracy of MODEL, and how far it is from a reference."""
    from obs_onnx.entrypoints.evaluate import evaluate as run
    from obs_onnx.io.onnx_file import load_model
    from obs_onnx.report import print_evaluation, write_json
    from obs_onnx.runtimes import open_runtime

    for path in (model, against):
        if path is not None:
            distinct(path, json_path)
            load_model(path, custom_domains=custom_domain)
    result = run(
        model, data, labels_key=labels, against=against, runtime=open_runtime(runtime, threads, custom_ops)
    )
    print_evaluation(result.to_json())
    if json_path:
        write_json(json_path, {"schema": 1, "model": model, "against": against, **result.to_json()})
