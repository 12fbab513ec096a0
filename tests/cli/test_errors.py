"""Errors end a command with one line and the exit code of their kind."""

from __future__ import annotations

import warnings

import click
import pytest
from click.testing import CliRunner

from obs_onnx.cli.errors import Program, speller
from obs_onnx.cli.options import Command
from obs_onnx.passes.errors import DataError, OptionError, VerificationError, boundary, named


def outcome(error: BaseException | None) -> tuple[int, str]:
    """Exit code and stderr of a command that raises ``error``."""

    @click.group(cls=Program)
    def program() -> None:
        pass

    @program.command()
    @click.option("-r", "--round", "round_to")
    def go(round_to: str | None) -> None:
        if error is not None:
            raise error

    result = CliRunner().invoke(program, ["go"])
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (None, 0, ""),
        (DataError("no data"), 2, "obs-onnx: no data\n"),
        (OptionError(f"{named('round_to')} is off"), 2, "obs-onnx: --round is off\n"),
        (OptionError(f"give {named('other_one', '3')}"), 2, "obs-onnx: give --other-one 3\n"),
        (VerificationError("broken"), 1, "obs-onnx: broken; nothing was written\n"),
        (KeyboardInterrupt(), 130, "obs-onnx: interrupted; nothing was written\n"),
        (click.UsageError("no\nway"), 2, "obs-onnx: no way\n"),
        (DataError("\x1b[2J\nall targets met\u202e"), 2, "obs-onnx: \\x1b[2J\\nall targets met\\u202e\n"),
        (VerificationError("\x07"), 1, "obs-onnx: \\x07; nothing was written\n"),
    ],
)
def test_one_line_and_an_exit_code(error: BaseException | None, code: int, text: str) -> None:
    found, shown = outcome(error)
    assert (found, shown.lstrip("\n")) == (code, text)


def test_what_is_no_error_of_the_program_is_an_internal_one() -> None:
    code, text = outcome(KeyError("a\nb"))
    assert code == 1
    assert text == (
        "obs-onnx: internal error, please report it: KeyError: 'a\\nb'; --verbose shows the traceback\n"
    )


def test_verbose_shows_the_traceback() -> None:
    @click.group(cls=Program)
    def program() -> None:
        pass

    @program.command(cls=Command)
    def go() -> None:
        with boundary("m.onnx cannot be read"):
            raise ValueError("first line\nsecond\x1b[2J line")

    quiet = CliRunner().invoke(program, ["go"])
    assert (quiet.exit_code, quiet.stderr) == (
        2,
        "obs-onnx: m.onnx cannot be read: first line second\\x1b[2J line\n",
    )
    for flag in ("-v", "--verbose"):
        told = CliRunner().invoke(program, ["go", flag])
        assert told.exit_code == 2
        assert "Traceback" in told.stderr
        assert "ValueError: first line" in told.stderr
        assert "\x1b" not in told.stderr
        assert told.stderr.endswith(quiet.stderr)


def test_warnings_of_libraries_show_only_when_asked_for() -> None:
    @click.group(cls=Program)
    def program() -> None:
        pass

    @program.command(cls=Command)
    def go() -> None:
        warnings.warn("noise", RuntimeWarning, stacklevel=1)

    with warnings.catch_warnings():
        warnings.resetwarnings()
        with warnings.catch_warnings(record=True) as seen:
            CliRunner().invoke(program, ["go"])
        assert not seen
        with pytest.warns(RuntimeWarning, match="noise"):
            CliRunner().invoke(program, ["go", "-v"])


def test_spelling() -> None:
    spell = speller({"mode": "--mode", "layer_sparsity": "--layer"})
    assert spell("mode", "weights") == "--mode weights"
    assert spell("layer_sparsity", "") == "--layer"
