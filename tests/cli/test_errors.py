"""Errors end a command with one line and the exit code of their kind."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from obs_onnx.cli.errors import Behind, Program, speller
from obs_onnx.cli.options import Command
from obs_onnx.io.atomic_files import together, write_text
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


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "interrupted; complete and written: one.txt, two.txt"),
        (VerificationError("broken"), 1, "broken; complete and written: one.txt, two.txt"),
        (DataError("no data"), 2, "no data; complete and written: one.txt, two.txt"),
    ],
)
def test_what_was_written_before_is_named(
    error: BaseException, code: int, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    @click.group(cls=Program)
    def program() -> None:
        pass

    @program.command()
    def go() -> None:
        with together() as files:
            write_text("one.txt", "1", files)
            write_text("two.txt", "2", files)
        with together() as files:
            write_text("three.txt", "3", files)
            raise error

    result = CliRunner().invoke(program, ["go"])
    assert (result.exit_code, result.stderr.strip()) == (code, f"obs-onnx: {text}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.txt", "two.txt"]


def test_what_fails_behind_a_result_is_told_and_the_rest_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    done, behind = [], Behind("m.onnx", ["latency was not measured: no clock"])
    behind.run("r.html was not written", lambda: {}["axis"])
    behind.run("r.json was not written", lambda: done.append("json"))
    with pytest.raises(SystemExit) as ended:
        behind.end()
    assert (done, ended.value.code) == (["json"], 4)
    assert capsys.readouterr().err.splitlines() == [
        "obs-onnx: failed: latency was not measured: no clock; m.onnx is complete and written",
        "obs-onnx: failed: r.html was not written: KeyError: 'axis'; m.onnx is complete and written",
    ]
    Behind("m.onnx").end()
    with pytest.raises(SystemExit) as ended:
        behind.end(3)
    assert ended.value.code == 3


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


TERMINAL = """
import os, pty, sys
child, screen = pty.fork()
if child == 0:
    os.execv(sys.executable, [sys.executable, "-m", "obs_onnx", *sys.argv[1:]])
shown = b""
while True:
    try:
        part = os.read(screen, 4096)
    except OSError:
        break
    if not part:
        break
    shown += part
sys.stdout.buffer.write(shown)
os.waitpid(child, 0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="terminals of another kind")
def test_a_terminal_shows_something_at_once_and_errors_in_red(tmp_path: Path) -> None:
    def shown(*arguments: str) -> str:
        command = [sys.executable, "-c", TERMINAL, *arguments]
        return (
            subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
            .stdout.decode()
            .replace("\r\n", "\n")
        )

    error = "\x1b[31m\x1b[1mobs-onnx: none.onnx does not exist; check the path of the model\x1b[0m\n"
    assert shown("inspect", "none.onnx") == f"loading ...\r\x1b[2K{error}"
    assert "loading" not in shown("prune", "none.onnx", "-q")
    assert "loading" not in shown("inspect", "--help")
