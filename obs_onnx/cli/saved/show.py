"""``obs-onnx report``, which makes the page of a run again, and ``obs-onnx compare``."""

from __future__ import annotations

from pathlib import Path

import click

from obs_onnx import report as shown
from obs_onnx.cli.errors import tell, verbose
from obs_onnx.cli.options import OUT, QUIET, SUMMARY, Command, TitledOption
from obs_onnx.cli.values import WrittenFile
from obs_onnx.io.paths import same_file
from obs_onnx.passes.errors import OptionError, named
from obs_onnx.passes.printable import printable

__all__ = ["compare", "report"]


@click.command("report", cls=Command)
@click.argument("result")
@OUT
@click.option(
    "-o",
    "--output",
    cls=TitledOption,
    common=1,
    metavar="OUT",
    form="file",
    type=WrittenFile(),
    help="Page to write. [default: RESULT with the ending .html]",
)
@SUMMARY
@QUIET
def report(result: str, output: str | None, brief: bool, silent: bool) -> None:
    """Show RESULT, the JSON of a prune or a pareto, and write it as a page.

    OUT is the same as --output. The page needs nothing else: no network, no script.
    """
    place = str(Path(result).with_suffix(".html")) if output is None else output
    if same_file(place, result):
        raise OptionError(f"{place} is the result itself: choose another {named('output')}")
    frontier = shown.read_frontier(result)
    if frontier is not None:
        shown.write_frontier_page(place, frontier)
        if brief:
            click.echo(printable(shown.frontier_line(frontier)))
        elif not silent:
            shown.print_frontier(frontier)
        return
    found = shown.read_report(result, shown.ReadableReport)
    found.to_html(place)
    if brief:
        click.echo(printable(found.summary()))
    elif not silent:
        shown.print_report(found, files=[place], verbose=verbose())


@click.command("compare", cls=Command)
@click.argument("results", nargs=-1, required=True)
def compare(results: tuple[str, ...]) -> None:
    """Compare the RESULTS of two runs of prune, as JSON, figure by figure."""
    if len(results) != 2:
        raise click.UsageError(f"{len(results)} results are given: give the JSON of two runs")
    one, other = results
    if same_file(one, other):
        tell("note: this is one and the same file")
    reports = (shown.read_report(one, shown.ReadableReport), shown.read_report(other, shown.ReadableReport))
    shown.print_comparison((one, other), reports)
