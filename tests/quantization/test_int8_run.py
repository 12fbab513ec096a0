"""Models of one run in integers of 8 bits: quantized, checked, and refused where they are no numbers."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import nets
import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.data.open_source import open_source
from obs_onnx.io.onnx_file import save_model
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import ModelError, OptionError, VerificationError
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.quantization import int8_run
from obs_onnx.quantization.int8_run import Int8
from obs_onnx.runtimes import open_runtime
from obs_onnx.verification.front import Front

RUNTIME = open_runtime("onnxruntime", 1)


@pytest.fixture(scope="module")
def quantizer() -> Int8:
    proto = nets.mlp()
    source = open_source({"x": nets.data(0, 64, 12)}, RUNTIME.session(proto.SerializeToString()).inputs)
    model = canonicalize(ir.from_proto(proto))
    return Int8.of(RUNTIME, Front(ir.from_proto(proto)), model, source)


def outputs(model: ir.Model, x: np.ndarray) -> np.ndarray:
    return RUNTIME.session(ir.to_proto(model).SerializeToString()).run({"x": x})["y"]


def test_the_dense_and_another_model_are_close_to_their_float_forms(quantizer: Int8) -> None:
    model, x = canonicalize(ir.from_proto(nets.mlp())), nets.data(1, 40, 12)
    small = model.clone()
    weight = small.graph.initializers["fc2.weight"].const_value.numpy()
    SetWeights({"fc2.weight": weight * (np.arange(32) % 2)})(small)
    for one, quantized in ((model, quantizer.dense), (small, quantizer.quantize(small).model)):
        expected, found = outputs(one, x), outputs(quantized, x)
        assert 0 < np.linalg.norm(found - expected) < 0.2 * np.linalg.norm(expected)
        kinds = {value.const_value.dtype for value in quantized.graph.initializers.values()}
        assert ir.DataType.INT8 in kinds


def test_a_written_file_must_do_the_same(quantizer: Int8, tmp_path: Path) -> None:
    model = canonicalize(ir.from_proto(nets.mlp()))
    quantized = quantizer.quantize(model)
    assert quantized.dense is quantizer.dense
    save_model(quantized.model, tmp_path / "good.onnx")
    quantized.check_file(tmp_path / "good.onnx")
    save_model(model, tmp_path / "other.onnx")
    with pytest.raises(VerificationError, match="differs"):
        quantized.check_file(tmp_path / "other.onnx")


def test_outputs_that_are_no_numbers(quantizer: Int8, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a way to quantize that badly, the quantization is one."""

    def broken(model: ir.Model, *more: object) -> tuple[ir.Model, tuple[str, ...]]:
        copy = model.clone()
        value = copy.graph.initializers["fc3.bias"]
        value.const_value = ir.tensor(np.full(5, np.nan, np.float32), name="fc3.bias")
        return copy, ()

    monkeypatch.setattr(int8_run, "quantize", broken)
    model = canonicalize(ir.from_proto(nets.mlp()))
    with pytest.raises(VerificationError, match="no numbers"):
        quantizer.quantize(model)
    with pytest.raises(ModelError, match="leave out quantize"):
        Int8.of(RUNTIME, Front(model), model, quantizer.source)


def test_bfloat16_is_refused(make_model, quantizer: Int8) -> None:
    model = make_model(
        "g (bfloat16[N,4] x) => (bfloat16[N,3] y) { y = MatMul(x, w) }",
        {"w": np.ones((4, 3), ml_dtypes.bfloat16)},
    )
    with pytest.raises(OptionError, match="needs float32"):
        Int8.of(RUNTIME, Front(model), model, quantizer.source)
