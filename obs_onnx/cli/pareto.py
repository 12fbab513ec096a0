"""``obs-onnx pareto``."""

from __future__ import annotations

from typing import Any

import click

import obs_onnx
from obs_onnx import report
from obs_onnx.cli.errors import EXIT_TARGET, Behind, command_line, tell
from obs_onnx.cli.options import CONFIG, JSON, OUT, PAGE, QUIET, SUMMARY, Command, options_from
from obs_onnx.cli.values import beside
from obs_onnx.entrypoints.files import check_files
from obs_onnx.entrypoints.options.pareto import ParetoOptions
from obs_onnx.io.paths import frontier_folder
from obs_onnx.passes.printable import printable

__all__ = ["pareto"]


@click.command(cls=Command)
@click.argument("model")
@OUT
@options_from(ParetoOptions)
@JSON
@PAGE
@SUMMARY
@CONFIG
@QUIET
def pareto(
    model: str, json_path: str | None, html_path: str | None, brief: bool, silent: bool, **options: Any
) -> None:
    """Write the frontier of smaller models of MODEL: latency against output error or accuracy.

    One calibration serves all. FOLDER, or OUT, gets the models that no other one dominates, pareto.json and
    pareto.svg. Exit code 0: done; 2: bad input or usage; 3: nothing was found that costs less; 4: what is
    written is right, yet something behind it failed.
    """
    options["output"] = options["output"] or beside(model, frontier_folder)
    check_files(model, ParetoOptions(**options), json_path=json_path, html_path=html_path)
    progress = report.terminal_progress(silent=silent)
    found = obs_onnx.pareto(model, progress=progress, **options)
    frontier = found.frontier
    behind = Behind(frontier.output, frontier.failures)
    if json_path:
        behind.run(f"{json_path} was not written", lambda: report.write_json(json_path, frontier.to_json()))
    if html_path:
        behind.run(
            f"{html_path} was not written",
            lambda: report.write_frontier_page(html_path, frontier, command_line()),
        )
    if brief:
        behind.run("the frontier was not shown", lambda: click.echo(printable(found.summary())))
    elif not silent:
        behind.run("the frontier was not shown", lambda: report.print_frontier(frontier))
    if not frontier.kept:
        tell("nothing was found that costs less and is not dominated")
    behind.end(None if frontier.kept else EXIT_TARGET)
