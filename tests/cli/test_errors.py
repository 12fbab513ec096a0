"""Errors end a command with one line and the exit code of their kind."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from obs_onnx.cli.errors import Program, speller
from obs_onnx.passes.errors import DataError, OptionError, VerificationError, named


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
        (KeyboardInterrupt(), 130, "obs-onnx: interrupted; no file is incomplete\n"),
        (click.UsageError("no\nway"), 2, "obs-onnx: no way\n"),
    ],
)
def test_one_line_and_an_exit_code(error: BaseException | None, code: int, text: str) -> None:
    found, shown = outcome(error)
    assert (found, shown.lstrip("\n")) == (code, text)


def test_what_is_no_error_of_the_program_is_raised() -> None:
    assert outcome(ZeroDivisionError())[0] == 1


def test_spelling() -> None:
    spell = speller({"mode": "--mode", "layer_sparsity": "--layer"})
    assert spell("mode", "weights") == "--mode weights"
    assert spell("layer_sparsity", "") == "--layer"
