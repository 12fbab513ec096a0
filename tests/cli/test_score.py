"""The command score."""

from __future__ import annotations

import json

import nets
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from obs_onnx.cli import main


@pytest.fixture
def files(tmp_path, labelled):
    onnx.save(nets.residual(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", **labelled)
    return tmp_path


class TestCommand:
    def test_files(self, files) -> None:
        args = ["score", str(files / "net.onnx"), "--calib", str(files / "data.npz"), "--criterion", "fisher"]
        args += ["--oracle", "--json", str(files / "out.json"), "--plot", str(files / "plot.svg")]
        result = CliRunner().invoke(main, args)
        assert result.exit_code == 0, result.output
        assert "Spearman" in result.output
        report = json.loads((files / "out.json").read_text())
        assert report["schema"] == 1
        assert report["criterion"] == "fisher"
        assert {"per_layer_mean", "all"} <= report["spearman"].keys()
        assert report["spearman"]["all"].keys() == {"raw", "normalised"}
        for group in report["groups"]:
            assert len(group["scores"]) == len(group["oracle"]) == group["channels"]
        assert "<svg" in (files / "plot.svg").read_text()

    def test_without_the_oracle(self, files) -> None:
        args = ["score", str(files / "net.onnx"), "--calib", str(files / "data.npz"), "-q"]
        result = CliRunner().invoke(main, [*args, "--json", str(files / "out.json")])
        assert result.exit_code == 0, result.output
        assert "spearman" not in json.loads((files / "out.json").read_text())

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--plot", "plot.svg"], "--oracle"),
            (["--oracle", "--plot", "plot.jpg"], ".svg or .png"),
            (["--criterion", "luck"], "unknown"),
            (["--regularize", "bytes=1"], "use one of flops, memory, bandwidth, latency"),
        ],
    )
    def test_usage(self, files, more: list[str], message: str) -> None:
        args = ["score", str(files / "net.onnx"), "--calib", str(files / "data.npz"), "-q", *more]
        result = CliRunner().invoke(main, args)
        assert result.exit_code == 2
        assert message in result.output
