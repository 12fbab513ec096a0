"""``obs-onnx pareto``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from obs_onnx.cli.options import BATCH, EXIT_TARGET, JSON, LABELS, RUNTIME, distinct, guarded

__all__ = ["pareto"]


@click.command()
@click.argument("model")
@click.option("-o", "--output", metavar="FOLDER", help="Folder to make  [default: <stem>.pareto].")
@click.option("--calib", metavar="SRC", help="Calibration data  [default: <stem>.calib.npz].")
@LABELS
@click.option("--eval", "evaluation", metavar="SRC", help="Labelled data for the accuracy.")
@click.option(
    "--points", type=click.IntRange(1, 99), default=12, show_default=True, metavar="N", help="Models wanted."
)
@click.option(
    "--cost",
    type=click.Choice(["latency", "macs", "params", "size", "ram"]),
    default="latency",
    show_default=True,
    help="What is to become less.",
)
@click.option(
    "--least",
    type=float,
    default=0.2,
    show_default=True,
    metavar="SHARE",
    help="Of the dense model's cost, where the frontier ends.",
)
@click.option(
    "--by",
    type=click.Choice(["auto", "error", "accuracy"]),
    default="auto",
    show_default=True,
    help="What is traded for the cost; auto: accuracy with --eval, else output error.",
)
@click.option("--criterion", default="auto", show_default=True, metavar="NAME", help="As for prune.")
@click.option("--allocation", default="damage", show_default=True, metavar="NAME", help="As for prune.")
@click.option("--compensate/--no-compensate", default=True, help="Refit the kept weights.")
@click.option("--sequential/--no-sequential", default=True, help="Correct each layer for those before it.")
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
    "--effort", type=click.Choice(["quick", "normal", "thorough"]), default="normal", show_default=True
)
@click.option("--loss", type=click.Choice(["auto", "kl", "error"]), default="auto", show_default=True)
@RUNTIME
@BATCH
@click.option(
    "--seconds",
    type=click.FloatRange(0.05),
    default=1.0,
    show_default=True,
    help="Timed at last, per model, all in turn.",
)
@click.option(
    "--memory", metavar="SIZE", help="For activations, for example 2GB  [default: half of what is free]."
)
@click.option("--plot/--no-plot", default=None, help="Draw pareto.svg  [default: if matplotlib is there].")
@JSON
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("-q", "--quiet", "silent", is_flag=True, help="No progress.")
@guarded
def pareto(
    model: str,
    output: str | None,
    memory: str | None,
    json_path: str | None,
    silent: bool,
    custom_domain: Sequence[str],
    **options: Any,
) -> None:
    """Write the frontier of smaller models of MODEL: latency against output error or accuracy.

    One calibration serves all. FOLDER gets the models that no other one dominates, pareto.json and
    pareto.svg. Exit code 0: done; 2: bad input or usage; 3: nothing was found that costs less.
    """
    from obs_onnx.allocation.targets import parse_bytes
    from obs_onnx.entrypoints.pareto import pareto as run
    from obs_onnx.report import print_frontier, terminal_progress, write_json

    distinct(model, output or f"{os.path.splitext(model)[0]}.pareto", json_path)
    frontier = run(
        model,
        output,
        memory=None if memory is None else parse_bytes(memory),
        custom_domains=custom_domain,
        progress=terminal_progress(silent=silent),
        **options,
    ).frontier
    print_frontier(frontier)
    if json_path:
        write_json(json_path, frontier.to_json())
    if not frontier.kept:
        click.echo("obs-onnx: nothing was found that costs less and is not dominated", err=True)
        sys.exit(EXIT_TARGET)
