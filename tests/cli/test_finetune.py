"""The command finetune."""

from __future__ import annotations

import json

import numpy as np
import onnx
from click.testing import CliRunner

from obs_onnx.cli import main


def test_command(deep, easy, tmp_path):
    onnx.save(deep, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", **easy)
    arguments = ["finetune", str(tmp_path / "m.onnx"), "--data", str(tmp_path / "d.npz"), "--steps", "30"]
    extra = ["--lr", "0.02", "--optimizer", "adam", "--json", str(tmp_path / "r.json"), "-q"]
    result = CliRunner().invoke(main, [*arguments, *extra])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["schema"] == 1
    assert report["after"]["loss"] < report["before"]["loss"]
    onnx.checker.check_model(onnx.load(tmp_path / "m.finetuned.onnx"), full_check=True)
    result = CliRunner().invoke(main, [*arguments, "--summary"])
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    assert "m.finetuned.onnx: loss " in result.stdout
    assert "30 steps of " in result.stdout
    result = CliRunner().invoke(main, [*arguments, "--teacher", str(tmp_path / "nothing.onnx")])
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
