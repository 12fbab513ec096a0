"""``obs-onnx eval``."""

from __future__ import annotations

from typing import Any

import click

import obs_onnx
from obs_onnx import io, report
from obs_onnx.cli.options import JSON, Command, options_from
from obs_onnx.entrypoints.files import check_files
from obs_onnx.entrypoints.options.evaluate import EvaluateOptions
from obs_onnx.runtimes import open_runtime

__all__ = ["evaluate"]


@click.command("eval", cls=Command)
@click.argument("model")
@options_from(EvaluateOptions)
@JSON
def evaluate(model: str, json_path: str | None, **options: Any) -> None:
    """Measure the accuracy of MODEL, and how far it is from a reference."""
    asked = EvaluateOptions(**options)
    check_files(model, asked, json_path=json_path)
    for path in (model, asked.against):
        if path is not None:
            io.load_model(path, custom_domains=None if asked.against else asked.custom_domains)
    where = open_runtime(asked.runtime, asked.threads, asked.custom_ops)
    result = obs_onnx.evaluate(
        model,
        asked.data,
        labels_key=asked.labels,
        preprocess=asked.preprocess,
        tokenizer=asked.tokenizer,
        window=asked.window,
        against=asked.against,
        task=asked.task,
        weight=asked.weight,
        metric=asked.metric,
        metric_lower_is_better=asked.metric_lower_is_better,
        custom_domains=asked.custom_domains,
        runtime=where,
        cut=asked.cut,
        fix=asked.fix,
    )
    report.print_evaluation(result.to_json())
    if json_path:
        about = {"schema": 1, "model": model, "against": asked.against}
        report.write_json(json_path, {**about, **result.to_json()})
