"""``obs-onnx score``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click

from obs_onnx.cli.options import JSON, LABELS, RUNTIME, distinct, guarded, pairs, writable
from obs_onnx.passes.errors import OptionError

__all__ = ["score"]


@click.command()
@click.argument("model")
@click.option("--calib", metavar="SRC", help="Data  [default: <stem>.calib.npz].")
@LABELS
@click.option(
    "--criterion",
    default="taylor",
    show_default=True,
    metavar="NAME",
    help="taylor, fisher, obd, gates, oba, oba-second, oba-paper, obs, magnitude, l1, l2, mean, std, apoz, "
    "mutual-information, random or oracle.",
)
@click.option("--oracle", is_flag=True, help="Also remove each channel alone, and compare.")
@click.option(
    "--regularize",
    "regularizers",
    multiple=True,
    metavar="KEY=L",
    help="Normalised score taken off: flops (per million), memory, bandwidth (per MB) or latency (per ms); "
    "repeatable.",
)
@click.option("--protect", multiple=True, metavar="PATTERN", help="Leave matching layers alone; repeatable.")
@RUNTIME
@JSON
@click.option(
    "--plot", "plot_path", metavar="PATH.svg|png", callback=writable, help="Criterion against oracle."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("-q", "--quiet", "silent", is_flag=True, help="No progress.")
@guarded
def score(
    model: str,
    regularizers: Sequence[str],
    json_path: str | None,
    plot_path: str | None,
    silent: bool,
    custom_domain: Sequence[str],
    **options: Any,
) -> None:
    """Score the channels of MODEL; with --oracle also say how far the criterion can be trusted."""
    from obs_onnx.entrypoints.score import score as run
    from obs_onnx.report import print_scores, terminal_progress, write_json
    from obs_onnx.report.criterion_plot import check_plot, write_scatter

    distinct(model, json_path, plot_path)
    weights = pairs(regularizers, "--regularize", "KEY=LAMBDA, for example flops=0.001")
    if plot_path:
        check_plot(plot_path)
        if not options["oracle"]:
            raise OptionError("--plot compares with the oracle: give --oracle as well")
    result = run(
        model,
        regularize=weights,
        custom_domains=custom_domain,
        progress=terminal_progress(silent=silent),
        **options,
    )
    print_scores(result.to_json())
    for note in result.notes:
        click.echo(f"obs-onnx: {note}", err=True)
    if json_path:
        write_json(json_path, result.to_json())
    if plot_path:
        groups = [
            (group.name, group.raw, group.oracle) for group in result.groups if group.oracle is not None
        ]
        write_scatter(plot_path, groups, result.criterion, os.path.basename(model))
