"""Models as exporters write them, pruned and judged by onnxruntime alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

import obs_onnx
from obs_onnx.results.pruning import Report

__all__ = ["prune_and_compare", "run", "signature"]

Feed = Mapping[str, NDArray[Any]]


def _session(model: str | bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def signature(path: Path) -> list[tuple[str, str, list[Any]]]:
    """Names, types and shapes of inputs and outputs."""
    session = _session(str(path))
    return [(one.name, one.type, one.shape) for one in (*session.get_inputs(), *session.get_outputs())]


def run(model: Path | bytes, feed: Feed) -> list[NDArray[Any]]:
    """Outputs of one run; of a map per row, its values in the order of the keys."""
    session = _session(model if isinstance(model, bytes) else str(model))
    given = {name: x.astype(object) if x.dtype.kind == "U" else x for name, x in feed.items()}
    outputs = session.run(None, given)
    return [np.array([list(row.values()) for row in y]) if isinstance(y, list) else y for y in outputs]


def _silenced(path: Path, keep: Mapping[str, Mapping[str, list[int]]]) -> bytes:
    """The model with zeros in place of everything that was removed."""
    model = onnx.load(path)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    held |= {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"}
    for name, axes in keep.items():
        array = numpy_helper.to_array(held[name]).copy()
        for axis, kept in axes.items():
            gone = np.setdiff1d(np.arange(array.shape[int(axis)]), kept)
            array[(slice(None),) * int(axis) + (gone,)] = 0
        held[name].CopyFrom(numpy_helper.from_array(array, name))
    return model.SerializeToString()


def prune_and_compare(path: Path, data: Feed, share: float = 0.7) -> Report:
    """Remove channels without refitting others; the result is the model with zeros in their place.

    Args:
        path: of the model.
        data: samples; the first ones are compared, as many as a fixed batch takes.
        share: of the parameters that may stay.
    """
    small = path.with_name("small.onnx")
    options = {"criterion": "magnitude", "compensate": False, "latency": False, "threads": 1}
    report = obs_onnx.prune(path, calib=data, targets={"params": share}, output=small, **options).report
    assert report.after.parameters < report.before.parameters
    assert report.before.file_bytes is not None
    assert report.after.file_bytes is not None
    assert report.after.file_bytes < report.before.file_bytes
    assert signature(small) == signature(path)
    batches = [one.shape[0] for one in _session(str(path)).get_inputs()]
    count = batches[0] if isinstance(batches[0], int) else 5
    feed = {name: x[:count] for name, x in data.items()}
    keep = json.loads(small.with_suffix(".keep.json").read_text(encoding="utf-8"))["tensors"]
    assert keep
    expected = run(_silenced(path, keep), feed)
    for found, wanted in zip(run(small, feed), expected, strict=True):
        assert found.shape == wanted.shape
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * max(1.0, np.abs(wanted).max()))
        else:
            np.testing.assert_array_equal(found, wanted)
    return report
