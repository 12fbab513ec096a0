"""Whole runs on models that are larger than what is loaded at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest

from obs_onnx import prune
from obs_onnx.io import scratch, tensors
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.runtimes.sessions import block_session

LIMIT = 40_000


def pruned(folder: Path, model: Path, options: dict[str, Any]) -> tuple[dict[str, Any], onnx.ModelProto]:
    """What a run keeps, and the model that it writes."""
    folder.mkdir()
    output = folder / "small.onnx"
    report = prune(model, output, effort="quick", threads=1, latency=False, **options).report
    assert report.met
    keep = folder / "small.keep.json"
    return json.loads(keep.read_text()) if keep.is_file() else {}, onnx.load(output)


@pytest.mark.parametrize(
    "options",
    [
        {"targets": {"params": 0.7}},
        {"targets": {"macs": 0.6}, "criterion": "l2", "allocation": "l2", "compensate": False},
        {"targets": {"sparsity": 0.5}, "mode": "weights"},
    ],
    ids=["channels", "magnitude", "weights"],
)
def test_the_result_is_that_of_a_run_in_memory(options: dict[str, Any], tmp_path: Path, monkeypatch) -> None:
    onnx.save(
        nets.transformer(width=64),
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    shape = [d.dim_value for d in nets.transformer(width=64).graph.input[0].type.tensor_type.shape.dim[1:]]
    options = {**options, "calib": {"x": nets.data(0, 64, *shape)}, "memory": 200_000, "rotate": False}
    keep, expected = pruned(tmp_path / "whole", tmp_path / "model.onnx", options)
    messages: list[int] = []
    session = OrtRuntime.session

    def counted(self: OrtRuntime, model: Any, external_data: Any = None) -> Any:
        messages.append(len(model))
        return session(self, model, external_data)

    monkeypatch.setattr(OrtRuntime, "session", counted)
    monkeypatch.setattr(block_session, "LARGE_BYTES", LIMIT)
    monkeypatch.setattr(scratch, "_LEAST_BYTES", 1000)
    monkeypatch.setattr(tensors, "_HELD_BYTES", 1000)
    large, found = pruned(tmp_path / "blocks", tmp_path / "model.onnx", options)
    assert max(messages) < 3 * LIMIT
    assert large == keep
    for a, b in zip(expected.graph.initializer, found.graph.initializer, strict=True):
        x, y = onnx.numpy_helper.to_array(a), onnx.numpy_helper.to_array(b)
        np.testing.assert_array_equal(x == 0, y == 0)
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)
