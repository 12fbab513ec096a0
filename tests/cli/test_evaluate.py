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


@pytest.mark.usefixtures("folder")
def test_a_metric_of_ones_own_and_the_parts_of_an_output() -> None:
    Path("mine.py").write_text(
        "def wrong(outputs, labels):\n"
        "    (y,) = outputs.values()\n"
        "    return (y.argmax(1) != labels).mean()\n"
        "wrong.lower_is_better = True\n"
    )
    data = ["--data", "digits_mlp.test.npz", "--json", "e.json"]
    against = ["--against", "digits_mlp.onnx"]
    result = run("eval", "digits_mlp.onnx", *data, "--metric", "mine.py:wrong", *against)
    assert result.exit_code == 0, result.output
    report = json.loads(Path("e.json").read_text())
    assert report["metric"] == pytest.approx(1 - report["accuracy"])
    assert report["task"] == "classification"
    result = run("eval", "digits_mlp.onnx", *data, "--metric", "mine.py:right")
    assert result.exit_code == 2
    assert "mine.py:right: cannot import it" in result.output
    result = run("eval", "digits_mlp.onnx", *data, "--metric-lower-is-better")
    assert result.exit_code == 2
    assert "give --metric, too" in result.output
    arguments = [*data, "--task", "embedding", "--against", "digits_mlp.onnx"]
    assert run("eval", "digits_mlp.onnx", *arguments).exit_code == 0
    report = json.loads(Path("e.json").read_text())
    assert report["measures"]["cosine"] == pytest.approx(1)
    assert "agreement" not in report
    result = run("eval", "digits_mlp.onnx", *data, "--task", "segmentation")
    assert result.exit_code == 2
    assert "--task segmentation needs an output" in result.output
