"""Whole runs on models in integers: they stay in their format, and equal the silenced model bit for bit."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import Net
from quantized_graphs import FORMATS, images

import obs_onnx

pytestmark = pytest.mark.filterwarnings("ignore")

FORMS = ["QDQ u8s8 per channel", "QDQ s8s8", "QOperator u8s8 per channel", "QOperator u8u8", "dynamic u8"]


def net() -> onnx.ModelProto:
    """A residual block and a depthwise convolution."""
    made = Net(4)
    x = made.op("Relu", made.conv("x", "stem", 16, 3))
    y = made.conv(made.op("Relu", made.conv(x, "a", 24, 16)), "b", 16, 24, k=1)
    x = made.op("Relu", made.op("Add", x, y))
    y = made.op("Relu", made.conv(made.conv(x, "up", 24, 16, k=1), "d", 24, 24, group=24))
    made.op("Identity", made.dense(made.pooled(y), "head", 24, 5), name="y")
    return made.proto({"x": [3, 8, 8]}, {"y": [5]})


@pytest.mark.parametrize("form", FORMS)
def test_a_model_in_integers_is_pruned_in_its_format(form: str, tmp_path: Path) -> None:
    dense = FORMATS[form](net(), tmp_path, 0)
    onnx.save(dense, tmp_path / "dense.onnx")
    report = obs_onnx.prune(
        tmp_path / "dense.onnx",
        tmp_path / "small.onnx",
        calib={"x": images(1, 32)},
        targets=["macs=0.6"],
        compensate=False,
        effort="quick",
        latency=False,
    ).report
    assert report.met
    assert report.after.macs <= 0.6 * report.before.macs
    small = onnx.load(tmp_path / "small.onnx")
    after, before = (
        [one.op_type for one in model.graph.node if "Quant" in one.op_type or "Integer" in one.op_type]
        + [one.data_type for one in model.graph.initializer if one.data_type != onnx.TensorProto.INT64]
        for model in (small, dense)
    )
    assert Counter(after) == Counter(before)
    assert (tmp_path / "small.onnx").stat().st_size < (tmp_path / "dense.onnx").stat().st_size
    (proof,) = (note for note in report.notes if "silenced" in note)
    assert "relative difference 0.0e+00" in proof
    assert np.isfinite(report.output_error)
