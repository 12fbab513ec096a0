"""Target ram: the peak of the written file is simulated by other code on the shapes that ONNX infers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import data, residual, shapes_of
from repository import MODELS
from simulated_memory import simulated_peak

from obs_onnx import inspect, prune
from obs_onnx.passes.errors import OptionError

NET = MODELS / "digits_resnet.onnx"
FAST = {"effort": "quick", "threads": 1, "latency": False}


def peak(proto: onnx.ModelProto) -> int:
    shapes = shapes_of(proto, samples=1)
    return simulated_peak(proto, {name: 4 * int(np.prod(shape)) for name, shape in shapes.items()})


@pytest.mark.parametrize(("target", "share"), [("ram=0.5", 0.5), ("ram=5KB", 5000 / 12288)])
def test_the_peak_of_the_file_is_within_the_limit(target: str, share: float, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    report = prune(NET, output, targets=[target], **FAST).report
    after = peak(onnx.load(output))
    assert report.met
    assert inspect(NET).peak.bytes == report.before.peak_activation_bytes == peak(onnx.load(NET))
    assert report.after.peak_activation_bytes == inspect(output).peak.bytes == after
    assert 0.7 * share < after / report.before.peak_activation_bytes <= share
    assert report.to_json()["after"]["peak_activation_bytes"] == after


def test_several_rounds_and_limits() -> None:
    samples = {"x": data(1, 96, 3, 8, 8)}
    targets = {"ram": 0.6, "macs": 0.6}
    result = prune(residual(), calib=samples, targets=targets, rounds=2, round_to=1, **FAST)
    report = result.report
    assert report.met
    assert report.after.peak_activation_bytes <= 0.6 * report.before.peak_activation_bytes
    assert report.after.macs <= 0.6 * report.before.macs


def test_what_cannot_be_reached_is_reported() -> None:
    samples = {"x": data(1, 96, 3, 8, 8)}
    report = prune(residual(), calib=samples, targets={"ram": 200}, **FAST).report
    assert not report.met
    assert report.after.peak_activation_bytes > 200
    assert json.loads(json.dumps(report.to_json()))["targets"] == {"ram": 200}


def test_zeros_do_not_lower_it() -> None:
    with pytest.raises(OptionError, match="ram needs channel removal, zeros do not lower it"):
        prune(NET, mode="weights", targets={"ram": 0.5})
