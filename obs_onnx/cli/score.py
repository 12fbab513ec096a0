"""``obs-onnx score``."""

from __future__ import annotations

import os
from typing import Any

import click

import obs_onnx
from obs_onnx import report
from obs_onnx.cli.errors import tell
from obs_onnx.cli.options import CONFIG, JSON, QUIET, Command, TitledOption, options_from
from obs_onnx.cli.values import WrittenFile
from obs_onnx.entrypoints.files import check_files
from obs_onnx.entrypoints.options.score import ScoreOptions
from obs_onnx.io.atomic_files import together
from obs_onnx.passes.errors import OptionError, named

__all__ = ["score"]


@click.command(cls=Command)
@click.argument("model")
@options_from(ScoreOptions)
@JSON
@click.option(
    "--plot",
    "plot_path",
    cls=TitledOption,
    metavar="PATH.svg|png",
    form="file",
    type=WrittenFile(),
    help="Criterion against oracle.",
)
@CONFIG
@QUIET
def score(model: str, json_path: str | None, plot_path: str | None, silent: bool, **options: Any) -> None:
    """Score the channels of MODEL; with --oracle also say how far the criterion can be trusted."""
    check_files(model, ScoreOptions(**options), json_path=json_path, plot_path=plot_path)
    if plot_path:
        report.check_plot(plot_path)
        if not options["oracle"]:
            raise OptionError(
                f"{named('plot_path')} compares with the oracle: give {named('oracle')} as well"
            )
    result = obs_onnx.score(model, progress=report.terminal_progress(silent=silent), **options)
    if not silent:
        report.print_scores(result.to_json())
    for note in () if silent else result.notes:
        tell(f"note: {note}")
    with together() as files:
        if json_path:
            report.write_json(json_path, result.to_json(), files)
        if plot_path:
            groups = [
                (group.name, group.raw, group.oracle) for group in result.groups if group.oracle is not None
            ]
            report.write_scatter(plot_path, groups, result.criterion, os.path.basename(model), files)
