"""Flags come from fields, in titled groups; messages name them as they were written."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from command_line import commands, run

from obs_onnx.cli import main
from obs_onnx.cli.errors import Program
from obs_onnx.cli.options import JSON, Command, options_from
from obs_onnx.entrypoints.options.prune import PruneOptions
from obs_onnx.option import Options, option, options_of
from obs_onnx.passes.errors import OptionError, named


@dataclass(frozen=True, kw_only=True)
class Sample(Options, title="Sample"):
    seed: int = option(0, help="Of chance.", least=0)
    share: float | None = option(None, help="Taken.", otherwise="all", above=0, below=1)
    kind: str = option("a", help=f"As {named('share')} wants.", choices=("a", "b"), common=1)
    names: Sequence[str] = option((), help="Chosen.", flags="--name", metavar="NAME")
    layers: Mapping[str, float] | None = option(None, help="Shares.", flags="--layer", metavar="NAME=SHARE")
    memory: int | None = option(None, help="Bytes.", form="size")
    path: str | os.PathLike[str] | None = option(None, help="Written.", form="file")
    on: bool = option(True, help="Or off.")
    off: bool = option(False, help="Or on.")
    either: bool | None = option(None, help="By itself.")
    hidden: object = option(None, help="In Python.", flags="")


def invoke(*arguments: str, group: type = Sample) -> tuple[Result, dict[str, Any]]:
    """The result of a command with the options of ``group``, and what it was given."""
    found: dict[str, Any] = {}

    @click.group(cls=Program)
    def program() -> None:
        pass

    @program.command("go", cls=Command)
    @options_from(group)
    @JSON
    def go(json_path: str | None, **options: Any) -> None:
        found.update(options)
        group(**options)
        if options.get("off"):
            raise OptionError(f"{named('off')} needs {named('kind', 'b')}")

    return CliRunner().invoke(program, ["go", *arguments]), found


def test_values() -> None:
    result, found = invoke()
    assert result.exit_code == 0
    assert found == {
        "seed": 0,
        "share": None,
        "kind": "a",
        "names": (),
        "layers": None,
        "memory": None,
        "path": None,
        "on": True,
        "off": False,
        "either": None,
    }
    arguments = ["--seed", "3", "--share", "0.5", "--kind", "b", "--name", "x", "--name", "y", "--no-on"]
    arguments += ["--layer", "a=b=0.5", "--layer", "c=1", "--memory", "2KB", "--path", os.devnull, "--either"]
    result, found = invoke(*arguments)
    assert result.exit_code == 0
    assert found == {
        "seed": 3,
        "share": 0.5,
        "kind": "b",
        "names": ("x", "y"),
        "layers": {"a=b": 0.5, "c": 1.0},
        "memory": 2000,
        "path": os.devnull,
        "on": False,
        "off": False,
        "either": True,
    }
    assert invoke("--no-either")[1]["either"] is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seed", "-1"], "'--seed': -1 is not in the range x>=0"),
        (["--share", "1"], "'--share'"),
        (["--share", "nan"], "--share nan: use more than 0 and less than 1"),
        (["--kind", "c"], "'--kind': 'c' is not one of"),
        (["--layer", "a"], "'--layer': 'a' is not NAME=SHARE"),
        (["--layer", "a=b"], "'--layer': 'a=b' is not NAME=SHARE"),
        (["--memory", "much"], "'--memory': 'much' is not a size"),
        (["--path", "missing/x"], "'--path': cannot write missing/x: its folder does not exist"),
        (["--json", "."], "'--json': cannot write .: it is a folder"),
        (["--hidden", "x"], "--hidden"),
        (["--off"], "--off needs --kind b"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], words: str) -> None:
    result, _ = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("obs-onnx: ")
    assert words in line


def test_help_has_titles() -> None:
    text = invoke("--help")[0].stdout
    common, sample, output = (text.index(title) for title in ("Common options:", "Sample:", "Output:"))
    assert common < text.index("--kind") < text.index("--json") < sample < text.index("--seed") < output
    assert sample < text.index("[default: all]") < output < text.index("--help")
    assert "As --share wants." in text
    assert "Chosen; repeatable." in text


@dataclass(frozen=True, kw_only=True)
class Wider(PruneOptions):
    throw_away: int = option(3, help="Of no use.", least=1)


def test_a_new_option_is_one_field() -> None:
    result, found = invoke("--throw-away", "5", group=Wider)
    assert (result.exit_code, found["throw_away"]) == (0, 5)
    result, _ = invoke("--throw-away", "0", group=Wider)
    assert (result.exit_code, "--throw-away" in result.stderr) == (2, True)
    assert "Of no use." in invoke("--help", group=Wider)[0].stdout


def test_prune_shows_the_common_dozen_first() -> None:
    text = CliRunner().invoke(main, ["prune", "--help"]).stdout
    sections = [line.removesuffix(":") for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    titles = ["Choice", "Refit", "Data", "Measuring", "Runtime", "Training", "Output"]
    assert sections == ["Common options", *titles]
    first = text[text.index("Common options:") : text.index("Choice:")]
    flags = [line.split()[0].strip(",") for line in first.splitlines() if line.startswith("  -")]
    assert flags == [
        "-o",
        "--calib",
        "--labels",
        "--eval",
        "--mode",
        "--target",
        "--criterion",
        "--finetune",
        "--quantize",
        "--effort",
        "--runtime",
        "--json",
    ]


def test_commands_have_every_flag_of_their_list() -> None:
    flags = {flag for one in commands()["prune"].params for flag in one.opts}
    assert {flag for one in options_of(PruneOptions) for flag in one.flags} <= flags


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "digits_mlp.onnx"),
        ("bench", "digits_mlp.onnx", "--seconds", "0.01"),
        ("eval", "digits_mlp.onnx", "--data", "digits_mlp.test.npz"),
        ("gradient", "digits_mlp.onnx", "-o", "gradient.onnx"),
        ("replay", "keep.json", "digits_mlp.onnx"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_quiet_is_quiet(folder: Path, arguments: tuple[str, ...]) -> None:
    kept = {"fc1.weight": {"0": [0, 2]}, "fc1.bias": {"0": [0, 2]}, "fc2.weight": {"1": [0, 2]}}
    (folder / "keep.json").write_text(json.dumps({"schema": 1, "tensors": kept}))
    result = run(*arguments, "-q")
    assert (result.exit_code, result.output) == (0, "")
