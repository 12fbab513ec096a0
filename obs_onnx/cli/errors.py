"""Errors as one line on stderr, and the exit codes; caught once, around every command."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click

import obs_onnx
from obs_onnx.io.atomic_files import journal
from obs_onnx.passes.errors import InputError, VerificationError, reason, tried
from obs_onnx.passes.printable import printable

__all__ = [
    "EXIT_BEHIND",
    "EXIT_INPUT",
    "EXIT_INTERRUPTED",
    "EXIT_PROMISE",
    "EXIT_TARGET",
    "Behind",
    "Lazy",
    "Program",
    "be_verbose",
    "command_line",
    "load",
    "speller",
    "tell",
    "verbose",
]

_LOADING, _ERASE = "loading ...", "\r\x1b[2K"
_ARGUMENTS = "obs_onnx.arguments"  # in what contexts share: those of the program
_TOLD = "obs_onnx.told"  # in what contexts share: the terminal says that something is being loaded
_QUIET = {"-q", "--quiet", "-h", "--help"}
_VERBOSE = "obs_onnx.verbose"  # in what the contexts of a command line share

EXIT_PROMISE, EXIT_INPUT, EXIT_TARGET, EXIT_BEHIND, EXIT_INTERRUPTED = 1, 2, 3, 4, 130


def speller(flags: Mapping[str, str]) -> Callable[[str, str], str]:
    """How options are written by these flags, by name: ``--mode``, ``--mode weights``."""

    def spell(option: str, value: str) -> str:
        return f"{flags.get(option, '--' + option.replace('_', '-'))} {value}".rstrip()

    return spell


class Behind:
    """What comes behind a result: other files, and showing it. What fails is told and takes nothing back.

    Args:
        output: the result, which is written; None for one that is only shown.
        failures: what failed already.
    """

    def __init__(self, output: str | None, failures: Iterable[str] = ()) -> None:
        self._output, self._failures = output, list(failures)

    def run(self, what: str, work: Callable[[], None]) -> None:
        """Do ``work``; ``what`` says what is not done where it fails."""
        self._failures += tried(what, work, None).failures

    def end(self, code: int | None = None) -> None:
        """Tell what failed, and end the program if anything did, or with ``code`` where that is given."""
        left = f"; {self._output} is complete and written" if self._output else ""
        for failure in self._failures:
            tell(f"failed: {failure}{left}", error=True)
        if code is not None or self._failures:
            sys.exit(EXIT_BEHIND if code is None else code)


@dataclass(frozen=True)
class Lazy:
    """A command that is imported when it is called.

    Attributes:
        place: module of this room, and name in it: ``prune:replay``.
        help: one line, which its own help begins with.
    """

    place: str
    help: str

    def load(self) -> click.Command:
        """The command."""
        module, _, name = self.place.partition(":")
        found: click.Command = getattr(import_module(f"obs_onnx.cli.{module}"), name)
        return found


class Program(click.Group):
    """The commands; errors of usage and of the program are one line, and an exit code.

    Args:
        lazy: commands by name, beside those that are added.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in order."""
        return sorted({*self.commands, *self._lazy})

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command; on a terminal it is told that it is being loaded, which takes a moment."""
        found = super().resolve_command(ctx, args)
        if not _QUIET & {*args} and sys.stderr.isatty():
            ctx.meta[_TOLD] = True
            click.echo(_LOADING, err=True, nl=False)
        return found

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments for those who want to show them."""
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command, imported now."""
        lazy = self._lazy.get(cmd_name)
        return super().get_command(ctx, cmd_name) if lazy is None else lazy.load()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line for each command, none of which is imported."""
        if not self._lazy:
            super().format_commands(ctx, formatter)
            return
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in sorted(self._lazy.items())])

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
            _end("interrupted", EXIT_INTERRUPTED)
        if standalone_mode:
            sys.exit(result if isinstance(result, int) else 0)
        return result

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for; errors name options by its flags, and what was written."""
        with journal() as written:
            try:
                return super().invoke(ctx)
            except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
                raise  # what the library makes of the command line
            except KeyboardInterrupt:
                click.echo(err=True)  # behind what the terminal shows of the key
                _end(f"interrupted; {_left(written)}", EXIT_INTERRUPTED)
            except InputError as error:
                command = self.get_command(ctx, ctx.invoked_subcommand or "")
                flags = {str(one.name): max(one.opts, key=len) for one in command.params} if command else {}
                _explain(ctx, error)
                left = f"; {_left(written)}" if written else ""
                _end(f"{error.spelled(speller(flags))}{left}", EXIT_INPUT)
            except VerificationError as error:
                _explain(ctx, error)
                _end(f"{error}; {_left(written)}", EXIT_PROMISE)
            except Exception as error:
                _explain(ctx, error)
                left = f"; {_left(written)}" if written else ""
                how = "" if ctx.meta.get(_VERBOSE) else "; --verbose shows the traceback"
                _end(f"internal error, please report it: {reason(error)}{left}{how}", EXIT_PROMISE)


def _left(written: Collection[str]) -> str:
    """What a command that ends early leaves behind; no file is ever incomplete."""
    return f"complete and written: {', '.join(written)}" if written else "nothing was written"


def be_verbose(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    """Callback of the flag that asks for tracebacks and warnings."""
    if value:
        ctx.meta[_VERBOSE] = True
        warnings.simplefilter("default")
        logging.getLogger().addHandler(logging.StreamHandler())
    return value


def verbose() -> bool:
    """Whether the command that runs was asked to tell more."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_VERBOSE))


def command_line() -> str:
    """The command that runs, as it could be typed again."""
    context = click.get_current_context()
    return shlex.join(["obs-onnx", *context.meta.get(_ARGUMENTS, ())])


def load(verb: str) -> None:
    """Import a function of :mod:`obs_onnx` with all it needs, if the terminal says so, and take that back."""
    context = click.get_current_context(silent=True)
    if context is not None and context.meta.pop(_TOLD, False):
        getattr(obs_onnx, verb, None)
        click.echo(_ERASE, err=True, nl=False)


def tell(message: str, *, error: bool = False) -> None:
    """One line on stderr; what does not show in it is escaped. On a terminal errors are red, notes yellow."""
    text = click.style(f"obs-onnx: {printable(message)}", fg="red" if error else "yellow", bold=error)
    click.echo(text, err=True, color=False if os.environ.get("NO_COLOR") else None)


def _explain(ctx: click.Context, error: Exception) -> None:
    """The traceback, where it was asked for."""
    if ctx.meta.get(_VERBOSE):
        for line in "".join(traceback.format_exception(error)).splitlines():
            click.echo(printable(line), err=True)


def _end(message: str, code: int) -> None:
    tell(message, error=True)
    sys.exit(code)
