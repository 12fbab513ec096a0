"""The command gradient."""

from __future__ import annotations

import onnx
import pytest
from click.testing import CliRunner

from obs_onnx.cli import main


def test_command(linear, tmp_path):
    proto, _, _ = linear
    onnx.save(proto, tmp_path / "m.onnx")
    arguments = ["gradient", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "g.onnx")]
    result = CliRunner().invoke(main, [*arguments, "--loss", "mse", "--hvp"])
    assert result.exit_code == 0, result.output
    model = onnx.load(tmp_path / "g.onnx")
    assert [x.name for x in model.graph.input] == ["x", "labels", "w.v", "b.v"]
    assert [y.name for y in model.graph.output][2:] == ["loss", "w.grad", "b.grad", "w.hvp", "b.hvp"]


@pytest.mark.parametrize("loss", ["hinge", "z"])
def test_bad_input_is_one_line(linear, tmp_path, loss):
    proto, _, _ = linear
    onnx.save(proto, tmp_path / "m.onnx")
    arguments = ["gradient", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "g.onnx"), "--loss", loss]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "g.onnx").exists()
