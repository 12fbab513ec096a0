"""``obs-onnx prune``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from obs_onnx.cli.options import BATCH, EXIT_TARGET, JSON, LABELS, RUNTIME, distinct, guarded, pairs, writable

__all__ = ["prune"]


@click.command()
@click.argument("model")
@click.option("-o", "--output", metavar="OUT", help="File to write  [default: <stem>.pruned.onnx].")
@click.option("--calib", metavar="SRC", help="Calibration data  [default: <stem>.calib.npz].")
@LABELS
@click.option("--mode", type=click.Choice(["channels", "weights"]), default="channels", show_default=True)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="KEY=VALUE",
    help="latency, macs, params, size, ram, error, drop or sparsity; repeatable.",
)
@click.option(
    "--pattern", metavar="PATTERN", help="N:M or RxC along the input channels, for example 2:4 or 1x4."
)
@click.option(
    "--criterion",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Of channels: obs, magnitude, l1, l2, mean, std, apoz, mutual-information, taylor, fisher, obd, "
    "gates, oba, oba-second, oba-paper, random, oracle; of weights: obs, admm, lobs, magnitude, taylor, "
    "fisher, obd, oba, oba-second, oba-paper, random.",
)
@click.option(
    "--allocation",
    default="damage",
    show_default=True,
    metavar="NAME",
    help="How much of each layer or group goes: by measured damage, or by the scores of a criterion.",
)
@click.option(
    "--normalize",
    is_flag=True,
    help="Divide the scores of --allocation by their norm in each layer or group, and cut at one threshold.",
)
@click.option(
    "--regularize",
    "regularizers",
    multiple=True,
    metavar="KEY=L",
    help="Normalised score taken off a channel of --allocation: flops (per million), memory, bandwidth (per "
    "MB) or latency (per ms); repeatable.",
)
@click.option("--compensate/--no-compensate", default=True, help="Refit the kept weights.")
@click.option("--sequential/--no-sequential", default=True, help="Correct each layer for those before it.")
@click.option("--correct/--no-correct", default=None, help="Try to match output statistics.")
@click.option(
    "--damping", type=click.FloatRange(0), default=1e-2, show_default=True, help="Relative damping."
)
@click.option(
    "--round-to",
    type=click.IntRange(1),
    metavar="N",
    help="Multiple of kept channels  [default: by runtime].",
)
@click.option("--protect", multiple=True, metavar="PATTERN", help="Leave matching layers alone; repeatable.")
@click.option(
    "--layer", "layer_texts", multiple=True, metavar="PATTERN=SHARE", help="Sparsity of matching layers."
)
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True, help="Iterations.")
@click.option(
    "--finetune",
    type=click.IntRange(0),
    default=0,
    metavar="STEPS",
    help="Updates after each round, taught by MODEL (and by --labels).",
)
@click.option(
    "--finetune-last",
    type=click.IntRange(1),
    metavar="STEPS",
    help="Updates after the last round  [default: as --finetune].",
)
@click.option(
    "--finetune-data", metavar="SRC", help="Data that --finetune learns from  [default: as --calib]."
)
@click.option(
    "--mix",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of the labels in what --finetune learns.",
)
@click.option(
    "--optimizer",
    type=click.Choice(["foof", "adamw", "adam", "sgd"]),
    help="Of --finetune  [default: foof, of ort-training adamw].",
)
@click.option("--lr", type=float, help="Largest learning rate of --finetune.")
@click.option(
    "--train-batch", type=click.IntRange(1), default=64, show_default=True, help="Samples per update."
)
@click.option("--augment", default="", metavar="flip,crop[=N]", help="Random views of images in --finetune.")
@click.option(
    "--trainer",
    type=click.Choice(["graph", "ort-training"]),
    default="graph",
    show_default=True,
    help="Engine of --finetune; the second one needs obs-onnx[training].",
)
@click.option(
    "--quantize",
    type=click.Choice(["int8"]),
    help="Also write <output stem>.int8.onnx, and compare the four of dense, pruned, float and int8.",
)
@click.option(
    "--effort", type=click.Choice(["quick", "normal", "thorough"]), default="normal", show_default=True
)
@click.option("--loss", type=click.Choice(["auto", "kl", "error"]), default="auto", show_default=True)
@RUNTIME
@BATCH
@click.option(
    "--memory", metavar="SIZE", help="For activations, for example 2GB  [default: half of what is free]."
)
@click.option("--eval", "evaluation", metavar="SRC", help="Labelled data for the accuracy.")
@JSON
@click.option(
    "--report", "html_path", metavar="PATH.html", callback=writable, help="Write the result as a page."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--dry-run", is_flag=True, help="Check everything, print the expected cost, write nothing.")
@click.option("-q", "--quiet", "silent", is_flag=True, help="No progress.")
@guarded
def prune(
    model: str,
    targets: Sequence[str],
    layer_texts: Sequence[str],
    regularizers: Sequence[str],
    memory: str | None,
    json_path: str | None,
    html_path: str | None,
    silent: bool,
    custom_domain: Sequence[str],
    **options: Any,
) -> None:
    """Prune MODEL and write a smaller one.

    Exit code 0: done; 2: bad input or usage; 3: a target could not be met.
    """
    from obs_onnx.allocation.targets import parse_bytes
    from obs_onnx.entrypoints.prune import prune as run
    from obs_onnx.report import print_report, terminal_progress, write_html, write_json

    output = options["output"] or f"{os.path.splitext(model)[0]}.pruned.onnx"
    keep = f"{os.path.splitext(output)[0]}.keep.json" if options["mode"] == "channels" else None
    int8 = f"{os.path.splitext(output)[0]}.int8.onnx" if options["quantize"] else None
    distinct(model, output, keep, int8, json_path, html_path)
    result = run(
        model,
        targets=targets,
        layer_sparsity=pairs(layer_texts, "--layer", "PATTERN=SHARE, for example 'fc*=0.5'"),
        regularize=pairs(regularizers, "--regularize", "KEY=LAMBDA, for example flops=0.001"),
        memory=None if memory is None else parse_bytes(memory),
        custom_domains=custom_domain,
        progress=terminal_progress(silent=silent),
        **options,
    )
    print_report(result.report)
    if json_path:
        write_json(json_path, result.report.to_json())
    if html_path:
        write_html(html_path, result.report)
    if not result.report.met and not options["dry_run"]:
        click.echo("obs-onnx: a target could not be met; the report says what was reached", err=True)
        sys.exit(EXIT_TARGET)
