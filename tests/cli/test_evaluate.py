"""The command eval."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import run


@pytest.mark.usefixtures("folder")
def test_eval() -> None:
    result = run("eval", "digits_mlp.onnx", "--data", "digits_mlp.test.npz", "--json", "e.json")
    assert result.exit_code == 0
    report = json.loads(Path("e.json").read_text())
    assert report["accuracy"] > 0.95
    assert "output_error" not in report
    arguments = ["--data", "digits_mlp.test.npz", "--against", "digits_mlp.onnx", "--json", "e.json"]
    assert run("eval", "digits_mlp.onnx", *arguments).exit_code == 0
    report = json.loads(Path("e.json").read_text())
    assert (report["output_error"], report["agreement"]) == (0, 1)
