"""Every command, every option that writes, given every file that it reads under every name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import click
import onnx
import pytest
from command_line import commands, run
from repository import MODELS

from obs_onnx.cli.options import TitledOption

WRITTEN = ("file", "new model", "new folder")
READ = ("model", "data", "libraries", "runtime")
FORMS = {"model": "other.onnx", "data": "c.npz", "libraries": "ops.so", "runtime": "command:python worker.py"}
VALUES = {"data": "c.npz", "new folder": "new", "new model": "new"}


def flags(command: click.Command, forms: tuple[str, ...]) -> dict[str, TitledOption]:
    """The options of a command whose values are of these forms, by flag."""
    options = [one for one in command.params if isinstance(one, TitledOption)]
    return {max(one.opts, key=len): one for one in options if one.form in forms}


def reads(command: click.Command) -> Iterator[tuple[str, list[str], str]]:
    """(where, arguments that let a command read, a file that is read then)."""
    if command.name == "report":
        yield "RESULT", [], "k.json"
        return
    yield "MODEL", [], "m.onnx"
    yield "weights of MODEL", [], "w.bin"
    for flag, option in flags(command, READ).items():
        value, more = FORMS[option.form], ["--finetune", "1"] if flag == "--finetune-data" else []
        yield flag, [flag, value, *more], value.split()[-1]
        if option.form == "data":
            yield f"{flag} of a folder", [flag, "data", *more], "data/1.npz"
            yield f"{flag} of pictures", [flag, "data", *more], "data/preprocess.json"
            yield f"{flag} of a function", [flag, "feeds:make", *more], "feeds.py"
        if flag == "--calib":
            yield "beside MODEL", [], "m.calib.npz"


CASES = [
    pytest.param(command, flag, arguments, path, id=f"{command.name} {flag} {where}")
    for command in commands().values()
    for flag in flags(command, WRITTEN)
    for where, arguments, path in reads(command)
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that can be read."""
    monkeypatch.chdir(tmp_path)
    proto = onnx.load(MODELS / "digits_mlp.onnx")
    onnx.save(proto, "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=64)
    Path("data").mkdir()
    Path("sub").mkdir()
    names = ("other.onnx", "c.npz", "k.json", "m.calib.npz", "ops.so", "worker.py", "feeds.py")
    for name in (*names, "data/1.npz", "data/preprocess.json"):
        Path(name).write_text(name)
    return tmp_path


def aliases(path: str, folder: Path) -> Iterator[str]:
    """Names of one file; the last ones are links that are made."""
    yield path
    yield str(folder / path)
    yield f"sub/.././{path}"
    Path("to").symlink_to(folder, target_is_directory=True)
    yield f"to/{path}"
    Path("soft").symlink_to(folder / path)
    yield "soft"
    os.link(path, "hard")
    yield "hard"


def state(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("command", "flag", "arguments", "path"), CASES)
def test_nothing_that_is_read_is_written_over(
    folder: Path, command: click.Command, flag: str, arguments: list[str], path: str
) -> None:
    for name in list(aliases(path, folder)):
        before = state(folder)
        given = complete(command, {flag: name}, arguments)
        result = run(*called(command), *given)
        assert result.exit_code == 2, name
        (line,) = result.stderr.splitlines()
        assert any(words in line for words in ("is read", "itself: choose", "exists: choose")), line
        assert state(folder) == before


def called(command: click.Command) -> list[str]:
    """A command and its arguments."""
    own = {"replay": ["k.json", "m.onnx"], "report": ["k.json"]}
    return [command.name or "", *own.get(command.name or "", ["m.onnx"])]


def complete(command: click.Command, given: dict[str, str], arguments: list[str]) -> list[str]:
    """Arguments with all that a command insists on."""
    needed = {"--to": "int8-weights"} if command.name == "quantize" and "--custom-ops" in arguments else {}
    for option in command.params:
        flag = max(option.opts, key=len)
        needs = option.required or (command.name, flag) == ("gradient", "--output")
        if isinstance(option, TitledOption) and needs and flag not in (*given, *arguments):
            needed[flag] = VALUES.get(option.form, "1")
    return [*(word for pair in (given | needed).items() for word in pair), *arguments]


TWICE = [
    pytest.param(command, one, other, id=f"{command.name} {one} {other}")
    for command in commands().values()
    for one, other in product(flags(command, WRITTEN), repeat=2)
    if one < other
]


@pytest.mark.parametrize(("command", "one", "other"), TWICE)
def test_nothing_is_written_twice(folder: Path, command: click.Command, one: str, other: str) -> None:
    Path("to").symlink_to(folder, target_is_directory=True)
    before = state(folder)
    result = run(*called(command), *complete(command, {one: "x.svg", other: "to/x.svg"}, []))
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "is given twice" in result.stderr
    assert state(folder) == before


OWN = {"compare", "join", "split"}  # it writes nothing; they are tested where joined files are


def test_every_command_is_here() -> None:
    assert {case.values[0].name for case in CASES} == set(commands()) - OWN
    assert len(CASES) > 100
    kinds = {one.form for command in commands().values() for one in flags(command, WRITTEN).values()}
    assert kinds == set(WRITTEN)


@pytest.mark.usefixtures("folder")
def test_options_that_name_files_have_a_form() -> None:
    words = ("PATH", "SRC", "MODEL2", "OUT", "FOLDER", "DIR", "LIBRARY", "SPEC")
    for command in commands().values():
        for option in command.params:
            if isinstance(option, TitledOption) and re.split(r"\W", option.metavar or "")[0] in words:
                assert option.form, f"{command.name} {option.name}"
