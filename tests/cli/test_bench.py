"""The command bench."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import run


@pytest.mark.usefixtures("folder")
def test_bench() -> None:
    arguments = ["digits_mlp.onnx", "digits_mlp.onnx", "--seconds", "0.05", "--threads", "1"]
    assert run("bench", *arguments, "--json", "b.json").exit_code == 0
    report = json.loads(Path("b.json").read_text())
    assert report["schema"] == 1
    assert len(report["models"]) == 2
    assert report["environment"]["threads"] == 1
