"""The command pareto."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from repository import MODELS

from obs_onnx.cli import main
from obs_onnx.pruning.frontier.search import FrontierSearch

LENET = MODELS / "digits_lenet.onnx"


class TestCommand:
    OPTIONS = ("--cost", "macs", "--points", "2", "--effort", "quick", "--seconds", "0.05", "--no-plot")

    def test_run(self, tmp_path: Path) -> None:
        given = [str(LENET), "-o", str(tmp_path / "out"), "--json", str(tmp_path / "r.json"), *self.OPTIONS]
        given += ["--report", str(tmp_path / "r.html")]
        result = CliRunner().invoke(main, ["pareto", *given])
        assert result.exit_code == 0, result.output
        page = (tmp_path / "r.html").read_text(encoding="utf-8")
        assert f"<code>obs-onnx pareto {LENET} -o" in page
        again = CliRunner().invoke(
            main, ["report", str(tmp_path / "out" / "pareto.json"), str(tmp_path / "s.html")]
        )
        assert again.exit_code == 0, again.output
        assert "dense" in again.stdout
        made = (tmp_path / "s.html").read_text(encoding="utf-8")
        assert made == re.sub(r"<p><code>.*?</code></p>\n", "", page)  # pareto.json does not know the command
        assert "dense" in result.stdout
        assert "02" in result.output
        read = json.loads((tmp_path / "r.json").read_text())
        assert read == json.loads((tmp_path / "out" / "pareto.json").read_text())
        again = CliRunner().invoke(main, ["pareto", *given])
        assert again.exit_code == 2
        assert again.output.count("\n") == 1
        assert "exists" in again.output

    def test_one_line(self, tmp_path: Path) -> None:
        given = [str(LENET), "-o", str(tmp_path / "out"), "--summary", "--no-latency", *self.OPTIONS]
        result = CliRunner().invoke(main, ["pareto", *given])
        assert result.exit_code == 0, result.output
        assert result.stdout.count("\n") == 1
        assert result.stdout.startswith(f"{LENET} -> {tmp_path / 'out'}: ")
        assert "models, MACs" in result.stdout

    def test_nothing_found(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(FrontierSearch, "run", lambda *args: None)
        result = CliRunner().invoke(main, ["pareto", str(LENET), "-o", str(tmp_path / "out"), *self.OPTIONS])
        assert result.exit_code == 3
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["pareto.json"]
