"""``obs-onnx finetune``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click

from obs_onnx.cli.options import JSON, distinct, guarded, writable

__all__ = ["finetune"]


@click.command()
@click.argument("model")
@click.option("-o", "--output", metavar="OUT", help="File to write  [default: <stem>.finetuned.onnx].")
@click.option("--data", required=True, metavar="SRC", help="Data to learn from.")
@click.option("--labels", metavar="KEY", help="Name of the labels in the data; learnt beside a teacher, too.")
@click.option("--teacher", metavar="MODEL2", help="Model whose outputs are learnt, usually the dense one.")
@click.option(
    "--mix", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Share of the labels."
)
@click.option(
    "--eval", "held_out", metavar="SRC", help="Data to measure on  [default: an eighth of the data]."
)
@click.option("--steps", type=click.IntRange(1), required=True, metavar="N", help="Updates.")
@click.option("--batch", type=click.IntRange(1), default=64, show_default=True, help="Samples per update.")
@click.option(
    "--optimizer",
    type=click.Choice(["foof", "adamw", "adam", "sgd"]),
    help="foof steps by the inverse Hessian of each layer  [default: foof, of ort-training adamw].",
)
@click.option("--lr", type=float, help="Largest learning rate  [default: 0.001, of adam and adamw 0.0002].")
@click.option("--warmup", type=click.IntRange(0), metavar="N", help="Steps in which the rate rises.")
@click.option("--momentum", type=float, default=0.9, show_default=True, help="Of sgd and foof.")
@click.option("--weight-decay", type=float, help="[default: 0.01 with adamw, else 0].")
@click.option(
    "--patience",
    type=click.IntRange(1),
    metavar="N",
    help="Measurements without a better one before an early stop  [default: no early stop].",
)
@click.option("--keep-zeros/--no-keep-zeros", default=True, help="Zeros stay zeros.")
@click.option(
    "--trainer",
    type=click.Choice(["graph", "ort-training"]),
    default="graph",
    show_default=True,
    help="Engine; the second one needs obs-onnx[training].",
)
@click.option("--augment", default="", metavar="flip,crop[=N]", help="Random views of images.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--checkpoint", metavar="PATH", callback=writable, help="Save the run here.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint, if it exists.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads of one operator.")
@click.option("--custom-ops", multiple=True, metavar="LIBRARY", help="Library with custom operators.")
@click.option("--custom-domain", multiple=True, metavar="DOMAIN", help="Domain of its operators.")
@JSON
@click.option("-q", "--quiet", "silent", is_flag=True, help="No progress.")
@guarded
def finetune(
    model: str,
    output: str | None,
    json_path: str | None,
    custom_domain: Sequence[str],
    silent: bool,
    **options: Any,
) -> None:
    """Train MODEL a little; zeros of a pruned model stay zeros."""
    from obs_onnx.entrypoints.finetune import finetune as run
    from obs_onnx.report import print_evaluation, terminal_progress, write_json

    output = output or f"{os.path.splitext(model)[0]}.finetuned.onnx"
    distinct(model, output, json_path, options["checkpoint"], options["teacher"])
    result = run(
        model,
        output=output,
        custom_domains=custom_domain,
        progress=terminal_progress(silent=silent),
        **options,
    ).report
    print_evaluation(
        {
            "model": output,
            "loss_before": result.before.loss,
            "loss": result.after.loss,
            "accuracy_before": result.before.accuracy,
            "accuracy": result.after.accuracy,
            "steps": result.steps,
            "ms_per_step": result.ms_per_step,
        }
    )
    for note in result.notes:
        click.echo(f"obs-onnx: {note}", err=True)
    if json_path:
        write_json(json_path, result.to_json())
