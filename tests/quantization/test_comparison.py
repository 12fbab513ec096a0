"""Several models measured on the same data."""

from __future__ import annotations

import nets
import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.data.open_source import open_source
from obs_onnx.evaluation.measures.yardstick import yardstick_of
from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.quantization.comparison import combine
from obs_onnx.runtimes import open_runtime
from obs_onnx.verification.front import Front

RUNTIME = open_runtime("onnxruntime", 1)


def test_sizes_errors_and_accuracies_of_each() -> None:
    dense = ir.from_proto(nets.mlp())
    other = dense.clone()
    weight = other.graph.initializers["fc3.weight"].const_value.numpy()
    SetWeights({"fc3.weight": 0.9 * weight})(other)
    x = nets.data(0, 60, 12)
    y, z = (nets.run_proto(ir.to_proto(model), {"x": x})["y"] for model in (dense, other))
    labels = np.where(np.arange(60) % 3 > 0, y.argmax(1), (y.argmax(1) + 1) % 5)
    inputs = RUNTIME.session(nets.mlp().SerializeToString()).inputs
    held_out = open_source({"x": x}, inputs)
    labelled = open_source({"x": x, "labels": labels}, inputs)
    first, second = combine(
        {"dense": dense, "other": other},
        Front(dense),
        RUNTIME,
        held_out,
        labelled,
        None,
        yardstick_of([{"y": y}], task="classification"),
    )
    assert (first.model, second.model) == ("dense", "other")
    assert first.file_bytes == len(serialize(dense))
    assert (first.output_error, first.agreement, first.latency_ms) == (None, None, None)
    assert first.accuracy == pytest.approx(2 / 3)
    assert second.output_error == pytest.approx(np.linalg.norm(z - y) / np.linalg.norm(y), rel=1e-5)
    assert second.agreement == pytest.approx(np.mean(y.argmax(1) == z.argmax(1)))
    assert second.accuracy == pytest.approx(np.mean(z.argmax(1) == labels))


def test_latencies_where_they_are_wanted() -> None:
    model = ir.from_proto(nets.mlp())
    source = open_source({"x": nets.data(0, 8, 12)}, RUNTIME.session(nets.mlp().SerializeToString()).inputs)
    (found,) = combine({"dense": model}, Front(model), RUNTIME, source, None, (RUNTIME, next(iter(source))))
    assert found.accuracy is None
    assert 0 < found.latency_ms.p10 <= found.latency_ms.median <= found.latency_ms.p90
