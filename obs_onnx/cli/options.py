"""What the commands share: options, errors as one line, exit codes."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from obs_onnx.passes.errors import InputError, OptionError, VerificationError

__all__ = [
    "BATCH",
    "EXIT_TARGET",
    "JSON",
    "LABELS",
    "RUNTIME",
    "OneLine",
    "distinct",
    "guarded",
    "pairs",
    "writable",
]

F = TypeVar("F", bound=Callable[..., Any])

EXIT_INPUT, EXIT_TARGET = 2, 3


def guarded(command: F) -> F:
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


def _together(*options: Callable[[F], F]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def writable(context: click.Context, parameter: click.Parameter, path: str | None) -> str | None:
    """Check a path to write while options are parsed, before anything costly starts."""
    if path is not None:
        from obs_onnx.io.atomic_files import check_writable

        try:
            check_writable(path)
        except OptionError as error:
            click.echo(f"obs-onnx: {error}", err=True)
            context.exit(EXIT_INPUT)
    return path


def distinct(*paths: str | None) -> None:
    """No file may be written over another one of the same command."""
    given = [path for path in paths if path is not None]
    for number, path in enumerate(given):
        if os.path.realpath(path) in map(os.path.realpath, given[:number]):
            raise OptionError(f"{path} is given twice: every file needs a name of its own")


JSON = click.option(
    "--json", "json_path", metavar="PATH", callback=writable, help="Write the result as JSON."
)
LABELS = click.option("--labels", metavar="KEY", help="Name of the labels in the data.")
RUNTIME = _together(
    click.option(
        "--runtime",
        default="onnxruntime",
        show_default=True,
        metavar="SPEC",
        help="onnxruntime[:PROVIDER], openvino[:DEVICE] or command:PREFIX, with options; docs/runtimes.md.",
    ),
    click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads of one operator."),
    click.option("--custom-ops", multiple=True, metavar="LIBRARY", help="Library with custom operators."),
    click.option("--custom-domain", multiple=True, metavar="DOMAIN", help="Domain of its operators."),
)
BATCH = click.option(
    "--batch",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Samples per timed run.",
)


class OneLine(click.Group):
    """A group whose usage errors are one line, like all others."""

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        """Run, and end with the exit codes of the program."""
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


def pairs(texts: Sequence[str], option: str, form: str) -> dict[str, float]:
    """Numbers by name, from texts ``NAME=NUMBER``; ``form`` says what an option's texts should look like."""
    found: dict[str, float] = {}
    for text in texts:
        name, sign, value = text.rpartition("=")
        try:
            found[name] = float(value)
        except ValueError:
            sign = ""
        if not sign:
            raise OptionError(f"{option} {text!r} is not {form}")
    return found
