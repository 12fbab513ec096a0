"""Errors of other forms of a model."""

from __future__ import annotations

import nets
import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.data.open_source import open_source
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.quantization.calibration import Calibration
from obs_onnx.runtimes import open_runtime

RUNTIME = open_runtime("onnxruntime", 1)


def test_errors_are_relative_to_the_model() -> None:
    model = canonicalize(ir.from_proto(nets.mlp()))
    source = open_source({"x": nets.data(0, 40, 12)}, RUNTIME.session(nets.mlp().SerializeToString()).inputs)
    broken = SetWeights({"fc3.weight": np.zeros((5, 24), np.float32)})(model.clone()).model
    found = Calibration(RUNTIME, source, source).errors(model, {"same": model.clone(), "broken": broken})
    assert found["same"] == pytest.approx(0, abs=1e-6)
    assert found["broken"] > 0.5
