"""The command artifacts."""

from __future__ import annotations

import json

import onnx
import pytest
from artifact_runs import NAMES, thinned
from click.testing import CliRunner

from obs_onnx.cli import main

pytestmark = pytest.mark.usefixtures("package")


def test_command(net, rng, tmp_path):
    onnx.save(thinned(net("mlp"), rng), tmp_path / "m.onnx")
    arguments = ["artifacts", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "out"), "--keep-zeros"]
    result = CliRunner().invoke(main, [*arguments, "--json", str(tmp_path / "r.json")])
    assert result.exit_code == 0, result.output
    assert all(name in result.output for name in NAMES)
    report = json.loads((tmp_path / "r.json").read_text())
    assert set(report["files"]) == NAMES
    assert report["masked"] > 0
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
