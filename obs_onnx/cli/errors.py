"""Errors as one line on stderr, and the exit codes; caught once, around every command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from obs_onnx.passes.errors import InputError, OptionError, VerificationError

__all__ = [
    "EXIT_INPUT",
    "EXIT_INTERRUPTED",
    "EXIT_PROMISE",
    "EXIT_TARGET",
    "Program",
    "after_result",
    "speller",
]

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
        try:
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
        except InputError as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            flags = {str(one.name): max(one.opts, key=len) for one in command.params} if command else {}
            _end(error.spelled(speller(flags)), EXIT_INPUT)
        except VerificationError as error:
            _end(f"{error}; nothing was written", EXIT_PROMISE)


def _end(message: str, code: int) -> None:
    click.echo(f"obs-onnx: {message}", err=True)
    sys.exit(code)
