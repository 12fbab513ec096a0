"""The command ``obs-onnx``: parse, call the API, print. Heavy imports happen inside the commands."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from obs_onnx import __version__
from obs_onnx.passes.errors import InputError, OptionError, VerificationError

__all__ = ["main"]

F = TypeVar("F", bound=Callable[..., Any])

EXIT_INPUT, EXIT_TARGET = 2, 3


def _guarded(command: F) -> F:
    """Turn the program's own errors into one line on stderr and an exit code."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except InputError as error:
            click.echo(f"obs-onnx: {error}", err=True)
            sys.exit(EXIT_INPUT)
        except VerificationError as error:
            click.echo(f"obs-onnx: {error}; nothing was written", err=True)
            sys.exit(1)

    return run  # type: ignore[return-value]


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _writable(context: click.Context, parameter: click.Parameter, path: str | None) -> str | None:
    """Check a path to write while options are parsed, before anything costly starts."""
    if path is not None:
        from obs_onnx.report.files import check_writable

        try:
            check_writable(path)
        except OptionError as error:
            click.echo(f"obs-onnx: {error}", err=True)
            context.exit(EXIT_INPUT)
    return path


def _distinct(*paths: str | None) -> None:
    """No file may be written over another one of the same command."""
    given = [path for path in paths if path is not None]
    for number, path in enumerate(given):
        if os.path.realpath(path) in map(os.path.realpath, given[:number]):
            raise OptionError(f"{path} is given twice: every file needs a name of its own")


_JSON = click.option(
    "--json", "json_path", metavar="PATH", callback=_writable, help="Write the result as JSON."
)
_LABELS = click.option("--labels", metavar="KEY", help="Name of the labels in the data.")
_RUNTIME = _options(
    click.option(
        "--runtime", default="onnxruntime", show_default=True, metavar="SPEC", help="onnxruntime[:PROVIDER]."
    ),
    click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads of one operator."),
    click.option("--custom-ops", multiple=True, metavar="LIBRARY", help="Library with custom operators."),
    click.option("--custom-domain", multiple=True, metavar="DOMAIN", help="Domain of its operators."),
)
_BATCH = click.option(
    "--batch",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Samples per timed run.",
)


class _OneLine(click.Group):
    """A group whose usage errors are one line, like all others."""

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        run: Callable[..., Any] = super().main
        try:
            result = run(*args, standalone_mode=False, **kwargs)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(EXIT_INPUT)
        except click.ClickException as error:
            click.echo(f"obs-onnx: {' '.join(error.format_message().split())}", err=True)
            sys.exit(EXIT_INPUT)
        except click.Abort:
            click.echo("obs-onnx: interrupted; nothing was written", err=True)
            sys.exit(130)
        if standalone_mode:
            sys.exit(result if isinstance(result, int) else 0)
        return result


@click.group(cls=_OneLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="obs-onnx")
def main() -> None:
    """Prune ONNX models with layer-wise Optimal Brain Surgeon, and prove the result."""


def _pairs(texts: Sequence[str], option: str) -> dict[str, float]:
    pairs: dict[str, float] = {}
    for text in texts:
        name, sign, value = text.rpartition("=")
        try:
            pairs[name] = float(value)
        except ValueError:
            sign = ""
        if not sign:
            raise OptionError(f"{option} {text!r} is not PATTERN=SHARE, for example {option} 'fc*=0.5'")
    return pairs


@main.command()
@click.argument("model")
@click.option("-o", "--output", metavar="OUT", help="File to write  [default: <stem>.pruned.onnx].")
@click.option("--calib", metavar="SRC", help="Calibration data  [default: <stem>.calib.npz].")
@_LABELS
@click.option("--mode", type=click.Choice(["channels", "weights"]), default="channels", show_default=True)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="KEY=VALUE",
    help="macs, params, size, error, drop or sparsity; repeatable.",
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
@click.option("--lr", type=float, help="Largest learning rate of --finetune.")
@click.option(
    "--effort", type=click.Choice(["quick", "normal", "thorough"]), default="normal", show_default=True
)
@click.option("--loss", type=click.Choice(["auto", "kl", "error"]), default="auto", show_default=True)
@_RUNTIME
@_BATCH
@click.option(
    "--memory", metavar="SIZE", help="For activations, for example 2GB  [default: half of what is free]."
)
@click.option("--eval", "evaluation", metavar="SRC", help="Labelled data for the accuracy.")
@_JSON
@click.option(
    "--report", "html_path", metavar="PATH.html", callback=_writable, help="Write the result as a page."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--dry-run", is_flag=True, help="Check everything, print the expected cost, write nothing.")
@click.option("-q", "--quiet", "silent", is_flag=True, help="No progress.")
@_guarded
def prune(
    model: str,
    targets: Sequence[str],
    layer_texts: Sequence[str],
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
    from obs_onnx.pipeline import prune as run
    from obs_onnx.report import print_report, terminal_progress, write_html, write_json
    from obs_onnx.targets import parse_bytes

    output = options["output"] or f"{os.path.splitext(model)[0]}.pruned.onnx"
    keep = f"{os.path.splitext(output)[0]}.keep.json" if options["mode"] == "channels" else None
    _distinct(model, output, keep, json_path, html_path)
    result = run(
        model,
        targets=targets,
        layer_sparsity=_pairs(layer_texts, "--layer"),
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


@main.command()
@click.argument("model")
@_JSON
@click.option("--custom-domain", multiple=True, metavar="DOMAIN", help="Domain of custom operators.")
@_guarded
def inspect(model: str, json_path: str | None, custom_domain: Sequence[str]) -> None:
    """Show the layers and channels of MODEL, and what is left alone and why."""
    from obs_onnx.inspection import inspect as run
    from obs_onnx.report import print_inspection, write_json

    _distinct(model, json_path)
    result = run(model, custom_domains=custom_domain)
    print_inspection(
        model,
        result.layers,
        result.frozen,
        result.totals,
        groups=result.groups,
        frozen_channels=result.frozen_channels,
    )
    if json_path:
        write_json(json_path, result.to_json())


@main.command()
@click.argument("models", nargs=-1, required=True)
@_RUNTIME
@_BATCH
@click.option("--seconds", type=click.FloatRange(0.05), default=3.0, show_default=True, help="Per model.")
@_JSON
@_guarded
def bench(
    models: Sequence[str],
    runtime: str,
    threads: int | None,
    custom_ops: Sequence[str],
    custom_domain: Sequence[str],
    batch: int,
    seconds: float,
    json_path: str | None,
) -> None:
    """Time MODELS side by side; ratios are to the first."""
    from obs_onnx.model_file import load_model
    from obs_onnx.report import print_bench, write_json
    from obs_onnx.runtimes import open_runtime
    from obs_onnx.timing import bench as run

    for path in models:
        _distinct(path, json_path)
        load_model(path, custom_domains=custom_domain)
    result = run(models, open_runtime(runtime, threads, custom_ops), batch=batch, seconds=seconds)
    rows = result.rows(models)
    print_bench(rows)
    for reason in result.noise:
        click.echo(f"obs-onnx: noisy measurement: {reason}", err=True)
    if json_path:
        write_json(
            json_path, {"schema": 1, "models": rows, "environment": result.environment, "noise": result.noise}
        )


@main.command("eval")
@click.argument("model")
@click.option("--data", required=True, metavar="SRC", help="Evaluation data.")
@_LABELS
@click.option("--against", metavar="MODEL2", help="Reference model for output error and agreement.")
@_RUNTIME
@_JSON
@_guarded
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
    from obs_onnx.evaluation import evaluate as run
    from obs_onnx.model_file import load_model
    from obs_onnx.report import print_evaluation, write_json
    from obs_onnx.runtimes import open_runtime

    for path in (model, against):
        if path is not None:
            _distinct(path, json_path)
            load_model(path, custom_domains=custom_domain)
    result = run(
        model, data, labels_key=labels, against=against, runtime=open_runtime(runtime, threads, custom_ops)
    )
    print_evaluation(result.to_json())
    if json_path:
        write_json(json_path, {"schema": 1, "model": model, "against": against, **result.to_json()})


@main.command()
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="OUT", help="File to write.")
@click.option(
    "--loss",
    default="cross_entropy",
    show_default=True,
    metavar="NAME",
    help="cross_entropy, mse, sum_of_squares, kl, relative_error, or a scalar output of MODEL.",
)
@click.option("--hvp", is_flag=True, help="Products with the Hessian, too.")
@click.option("--custom-domain", multiple=True, metavar="DOMAIN", help="Domain of custom operators.")
@_guarded
def gradient(model: str, output: str, loss: str, hvp: bool, custom_domain: Sequence[str]) -> None:
    """Write MODEL with a loss and its gradients as further outputs, made of standard operators.

    Outputs are loss and INITIALIZER.grad; with --hvp inputs INITIALIZER.v and outputs INITIALIZER.hvp come
    with them. Labels (or targets) come in as labels, the logits of kl as teacher.
    """
    from obs_onnx.differentiate import gradient as run

    run(model, output, loss=loss, hvp=hvp, custom_domains=custom_domain)


@main.command()
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
@click.option("--optimizer", type=click.Choice(["sgd", "adam", "adamw"]), default="adamw", show_default=True)
@click.option("--lr", type=float, help="Largest learning rate  [default: 0.0002, of sgd 0.001].")
@click.option("--warmup", type=click.IntRange(0), metavar="N", help="Steps in which the rate rises.")
@click.option("--momentum", type=float, default=0.9, show_default=True, help="Of sgd.")
@click.option("--weight-decay", type=float, help="[default: 0.01 with adamw, else 0].")
@click.option(
    "--patience", type=click.IntRange(1), default=10, show_default=True, help="Before an early stop."
)
@click.option("--keep-zeros/--no-keep-zeros", default=True, help="Zeros stay zeros.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--checkpoint", metavar="PATH", callback=_writable, help="Save the run here.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint, if it exists.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads of one operator.")
@click.option("--custom-ops", multiple=True, metavar="LIBRARY", help="Library with custom operators.")
@click.option("--custom-domain", multiple=True, metavar="DOMAIN", help="Domain of its operators.")
@_JSON
@click.option("-q", "--quiet", "silent", is_flag=True, help="No progress.")
@_guarded
def finetune(
    model: str,
    output: str | None,
    json_path: str | None,
    custom_domain: Sequence[str],
    silent: bool,
    **options: Any,
) -> None:
    """Train MODEL a little; zeros of a pruned model stay zeros."""
    from obs_onnx.finetuning import finetune as run
    from obs_onnx.report import print_evaluation, terminal_progress, write_json

    output = output or f"{os.path.splitext(model)[0]}.finetuned.onnx"
    _distinct(model, output, json_path, options["checkpoint"], options["teacher"])
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


@main.command()
@click.argument("model")
@click.option("--calib", metavar="SRC", help="Data  [default: <stem>.calib.npz].")
@_LABELS
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
    metavar="flops=L",
    help="Score taken off per million FLOPs.",
)
@click.option("--protect", multiple=True, metavar="PATTERN", help="Leave matching layers alone; repeatable.")
@_RUNTIME
@_JSON
@click.option(
    "--plot", "plot_path", metavar="PATH.svg|png", callback=_writable, help="Criterion against oracle."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("-q", "--quiet", "silent", is_flag=True, help="No progress.")
@_guarded
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
    from obs_onnx.report import print_scores, terminal_progress, write_json
    from obs_onnx.report.scatter import check_plot, write_scatter
    from obs_onnx.scoring import score as run

    _distinct(model, json_path, plot_path)
    weights = _pairs(regularizers, "--regularize")
    if unknown := weights.keys() - {"flops"}:
        raise OptionError(f"--regularize {min(unknown)}: only flops is known, for example flops=0.001")
    if plot_path:
        check_plot(plot_path)
        if not options["oracle"]:
            raise OptionError("--plot compares with the oracle: give --oracle as well")
    result = run(
        model,
        regularize=weights.get("flops", 0.0),
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
