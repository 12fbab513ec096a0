"""Errors as one line on stderr, and the exit codes; caught once, around every command."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from obs_onnx.passes.errors import InputError, OptionError, VerificationError, reason
from obs_onnx.passes.printable import printable

__all__ = [
    "EXIT_INPUT",
    "EXIT_INTERRUPTED",
    "EXIT_PROMISE",
    "EXIT_TARGET",
    "Program",
    "after_result",
    "be_verbose",
    "speller",
    "tell",
]

_VERBOSE = "obs_onnx.verbose"  # in what the contexts of a command line share

EXIT_PROMISE, EXIT_INPUT, EXIT_TARGET, EXIT_INTERRUPTED = 1, 2, 3, 130


def speller(flags: Mapping[str, str]) -> Callable[[str, str], str]:
    """How options are written by these flags, by name: ``--mode``, ``--mode weights``."""

    def spell(option: str, value: str) -> str:
        return f"{flags.get(option, '--' + option.replace('_', '-'))} {value}".rstrip()

    return spell


@contextmanager
def after_result(output: str | None) -> Iterator[None]:
    """What fails here fails after the result was written, which the message says.

    Raises:
        OptionError: a file could not be written.
    """
    try:
        yield
    except OptionError as error:
        raise OptionError(f"{error}; {output} is written" if output else str(error)) from error


class Program(click.Group):
    """The commands; errors of usage and of the program are one line, and an exit code."""

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        """Run, and end with the exit codes of the program."""
        run: Callable[..., Any] = super().main
        if not logging.getLogger().handlers:
            logging.getLogger().addHandler(logging.NullHandler())  # libraries log what then is an error
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", append=True)  # of libraries; those that were asked for show
                result = run(*args, standalone_mode=False, **kwargs)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(EXIT_INPUT)
        except click.ClickException as error:
            _end(" ".join(error.format_message().split()), EXIT_INPUT)
        except click.Abort:
            _end("interrupted; no file is incomplete", EXIT_INTERRUPTED)
        if standalone_mode:
            sys.exit(result if isinstance(result, int) else 0)
        return result

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for; errors name options by its flags."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise  # what the library makes of the command line
        except InputError as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            flags = {str(one.name): max(one.opts, key=len) for one in command.params} if command else {}
            _explain(ctx, error)
            _end(error.spelled(speller(flags)), EXIT_INPUT)
        except VerificationError as error:
            _explain(ctx, error)
            _end(f"{error}; nothing was written", EXIT_PROMISE)
        except Exception as error:
            _explain(ctx, error)
            how = "" if ctx.meta.get(_VERBOSE) else "; --verbose shows the traceback"
            _end(f"internal error, please report it: {reason(error)}{how}", EXIT_PROMISE)


def be_verbose(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    """Callback of the flag that asks for tracebacks and warnings."""
    if value:
        ctx.meta[_VERBOSE] = True
        warnings.simplefilter("default")
        logging.getLogger().addHandler(logging.StreamHandler())
    return value


def tell(message: str) -> None:
    """One line on stderr; what does not show in it is escaped."""
    click.echo(f"obs-onnx: {printable(message)}", err=True)


def _explain(ctx: click.Context, error: Exception) -> None:
    """The traceback, where it was asked for."""
    if ctx.meta.get(_VERBOSE):
        for line in "".join(traceback.format_exception(error)).splitlines():
            click.echo(printable(line), err=True)


def _end(message: str, code: int) -> None:
    tell(message)
    sys.exit(code)
