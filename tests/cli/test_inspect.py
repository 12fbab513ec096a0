"""The command inspect."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from command_line import run


@pytest.mark.usefixtures("folder")
def test_inspect() -> None:
    result = run("inspect", "digits_mlp.onnx", "--json", "i.json")
    assert result.exit_code == 0
    assert "fc2.weight" in result.stdout
    report = json.loads(Path("i.json").read_text())
    assert report["schema"] == 1
    assert (report["prunable"], report["parameters"], report["macs"]) == (50200, 50610, 50200)
    assert [line["shape"] for line in report["layers"]] == [[300, 64], [100, 300], [10, 100]]
    assert report["frozen"] == []


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("given", [None, "26"])
def test_idle_threads_of_linear_algebra_sleep_unless_told_otherwise(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "OPENBLAS_THREAD_TIMEOUT"
    monkeypatch.setenv(name, given or "")
    if given is None:
        monkeypatch.delenv(name)
    assert run("inspect", "digits_mlp.onnx").exit_code == 0
    assert os.environ[name] == (given or "20")
