"""Commands run in a folder with a model and its data."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from repository import MODELS

from obs_onnx.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the model and its data."""
    for name in ("digits_mlp.onnx", "digits_mlp.calib.npz", "digits_mlp.test.npz"):
        (tmp_path / name).write_bytes((MODELS / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands() -> dict[str, click.Command]:
    """All commands by name, imported."""
    context = click.Context(main)
    found = {name: main.get_command(context, name) for name in main.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def run(*arguments: str) -> Result:
    return CliRunner(catch_exceptions=False).invoke(main, list(arguments))
