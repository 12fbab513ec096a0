"""``obs-onnx prune``; ``replay``, which removes what a prune has; ``quantize``; ``join``, ``split``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import onnx_ir as ir

import obs_onnx
from obs_onnx import report
from obs_onnx.cli.errors import EXIT_TARGET, Behind, command_line, tell, verbose
from obs_onnx.cli.options import CONFIG, JSON, OUT, PAGE, QUIET, SUMMARY, Command, options_from
from obs_onnx.cli.values import WrittenFile, beside
from obs_onnx.entrypoints.files import check_files
from obs_onnx.entrypoints.options.prune import PruneOptions
from obs_onnx.entrypoints.options.quantize import QuantizeOptions
from obs_onnx.entrypoints.options.replay import ReplayOptions
from obs_onnx.io.atomic_files import noted
from obs_onnx.io.paths import pruned_path, quantized_path
from obs_onnx.passes.graph.inputs import real_inputs
from obs_onnx.passes.printable import printable

__all__ = ["join", "prune", "quantize", "replay", "split"]


@click.command(cls=Command)
@click.argument("model")
@OUT
@options_from(PruneOptions)
@JSON
@PAGE
@SUMMARY
@CONFIG
@QUIET
def prune(
    model: str, json_path: str | None, html_path: str | None, brief: bool, silent: bool, **options: Any
) -> None:
    """Prune MODEL and write a smaller one.

    OUT is the same as --output.

    Exit code 0: done; 2: bad input or usage; 3: a target could not be met; 4: OUT is written and right, yet
    something behind it failed, which the report names.
    """
    options["output"] = options["output"] or beside(model, pruned_path)
    check_files(model, PruneOptions(**options), json_path=json_path, html_path=html_path)
    result = obs_onnx.prune(model, progress=report.terminal_progress(silent=silent), **options)
    found = replace(result.report, command=command_line())
    behind = Behind(found.output, found.failures)
    if json_path:
        behind.run(f"{json_path} was not written", lambda: report.write_json(json_path, found.to_json()))
    if html_path:
        behind.run(f"{html_path} was not written", lambda: report.write_html(html_path, found))
    if brief:
        behind.run("the result was not shown", lambda: click.echo(printable(found.summary())))
    elif not silent:
        behind.run(
            "the report was not shown",
            lambda: report.print_report(found, files=noted(), verbose=verbose()),
        )
    missed = not found.met and not options["dry_run"]
    for one in found.missed:
        tell(f"target {one}", error=True)
    behind.end(EXIT_TARGET if missed else None)


@click.command(cls=Command)
@click.argument("keep")
@click.argument("model")
@OUT
@options_from(ReplayOptions)
@QUIET
def replay(keep: str, model: str, silent: bool, **options: Any) -> None:
    """Remove the channels that KEEP, a keep.json, leaves out from MODEL; nothing is refitted.

    OUT is the same as --output.
    """
    options["output"] = options["output"] or beside(model, pruned_path)
    result = obs_onnx.replay(model, keep, **options)
    if not silent:
        report.print_evaluation({"model": model, "output": str(result.output)})
    for note in () if silent else result.notes:
        tell(note)


@click.command(cls=Command)
@click.argument("models", nargs=-1, required=True)
@click.option("-o", "--output", required=True, type=WrittenFile(), metavar="PATH", help="The one model.")
def join(models: tuple[str, ...], output: str) -> None:
    """Write MODELS, an encoder and its decoders in the order in which they run, as one model to prune.

    The one model takes what no earlier file gives. split writes its files again.
    """
    found = obs_onnx.join(models, output)
    inputs, outputs = (", ".join(str(value.name) for value in values) for values in _ports(found))
    click.echo(printable(f"{output} takes {inputs} and gives {outputs}"))


@click.command(cls=Command)
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="FOLDER", help="A new folder for the files.")
def split(model: str, output: str) -> None:
    """Write the files that MODEL was joined of, with the sizes that are left, into a folder."""
    for name in obs_onnx.split(model, output):
        click.echo(printable(str(Path(output) / f"{name}.onnx")))


def _ports(model: ir.Model) -> tuple[Sequence[ir.Value], Sequence[ir.Value]]:
    return real_inputs(model), model.graph.outputs


@click.command(cls=Command)
@click.argument("model")
@OUT
@options_from(QuantizeOptions)
@JSON
@QUIET
def quantize(model: str, json_path: str | None, silent: bool, **options: Any) -> None:
    """Write MODEL in integers, and compare both.

    OUT is the same as --output.
    """
    options["output"] = options["output"] or beside(model, lambda path: quantized_path(path, options["to"]))
    check_files(model, QuantizeOptions(**options), json_path=json_path)
    found = obs_onnx.quantize(model, progress=report.terminal_progress(silent=silent), **options).report
    behind = Behind(found.output, found.failures)
    if json_path:
        behind.run(f"{json_path} was not written", lambda: report.write_json(json_path, found.to_json()))
    if not silent:
        behind.run(
            "the report was not shown",
            lambda: report.print_combinations(
                f"{found.model} → {found.output}", found.combinations, found.notes, found.alerts
            ),
        )
    behind.end()
