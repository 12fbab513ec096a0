"""Models of one run in integers: quantized, checked, and refused where they are no numbers."""

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
from obs_onnx.quantization import quantizer as module
from obs_onnx.quantization.calibration import Calibration, Made
from obs_onnx.quantization.options import INT4_WEIGHTS, INT8, INT8_WEIGHTS, QuantizationOptions
from obs_onnx.quantization.quantizer import Quantizer
from obs_onnx.runtimes import open_runtime
from obs_onnx.verification.front import Front

RUNTIME = open_runtime("onnxruntime", 1)
KINDS = {INT8: ir.DataType.INT8, INT8_WEIGHTS: ir.DataType.INT8, INT4_WEIGHTS: ir.DataType.UINT8}
SAMPLES = nets.data(0, 64, 12)


@pytest.fixture(scope="module")
def given() -> Calibration:
    source = open_source({"x": SAMPLES}, RUNTIME.session(nets.mlp().SerializeToString()).inputs)
    return Calibration(RUNTIME, *source.split(0.125, 0))


def opened(kind: str, given: Calibration) -> Quantizer:
    original = ir.from_proto(nets.mlp())
    model = canonicalize(ir.from_proto(nets.mlp()))
    found = Quantizer.of(QuantizationOptions(quantize=kind), given, Front(original), model)
    assert found is not None
    return found


def outputs(model: ir.Model, x: np.ndarray) -> np.ndarray:
    return RUNTIME.session(ir.to_proto(model).SerializeToString()).run({"x": x})["y"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_dense_and_another_model_are_close_to_their_float_forms(kind: str, given: Calibration) -> None:
    quantizer, x = opened(kind, given), nets.data(1, 40, 12)
    small = quantizer.dense.clone()
    weight = small.graph.initializers["fc2.weight"].const_value.numpy()
    SetWeights({"fc2.weight": weight * (np.arange(32) % 2)})(small)
    found = quantizer.quantize(small)
    for one, quantized in ((quantizer.dense, found.dense), (small, found.model)):
        expected, got = outputs(one, x), outputs(quantized, x)
        assert 0 < np.linalg.norm(got - expected) < 0.2 * np.linalg.norm(expected)
        kinds = {value.const_value.dtype for value in quantized.graph.initializers.values()}
        assert KINDS[kind] in kinds
    assert found.kind == kind
    assert f"{weight.size // 2} zeros" in " ".join(found.notes)


def test_nothing_is_asked_for(given: Calibration) -> None:
    model = canonicalize(ir.from_proto(nets.mlp()))
    assert Quantizer.of(QuantizationOptions(), given, Front(model), model) is None


def test_a_written_file_must_do_the_same(given: Calibration, tmp_path: Path) -> None:
    quantizer = opened(INT8, given)
    quantized = quantizer.quantize(quantizer.dense)
    assert quantized.dense is quantized.model
    save_model(quantized.model, tmp_path / "good.onnx")
    quantized.check_file(tmp_path / "good.onnx")
    save_model(quantizer.dense, tmp_path / "other.onnx")
    with pytest.raises(VerificationError, match="differs"):
        quantized.check_file(tmp_path / "other.onnx")


def test_outputs_that_are_no_numbers(given: Calibration, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a way to quantize that badly, the quantization is one."""
    quantizer = opened(INT8, given)

    def broken(model: ir.Model, *_: object) -> ir.Model:
        copy = model.clone()
        value = copy.graph.initializers["fc3.bias"]
        value.const_value = ir.tensor(np.full(5, np.nan, np.float32), name="fc3.bias")
        return copy

    monkeypatch.setattr(module, "quantize_static", lambda model, *_: Made(broken(model), ()))
    with pytest.raises(VerificationError, match="no numbers"):
        quantizer.quantize(quantizer.dense)
    monkeypatch.setattr(module, "quantize", lambda model, *_: (broken(model), ()))
    with pytest.raises(ModelError, match="in int8 are no numbers: leave it in float"):
        opened(INT8, given)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_refused(make_model, given: Calibration, kind: str) -> None:
    model = make_model(
        "g (bfloat16[N,4] x) => (bfloat16[N,3] y) { y = MatMul(x, w) }",
        {"w": np.ones((4, 3), ml_dtypes.bfloat16)},
    )
    with pytest.raises(OptionError, match=f"{kind} needs float32"):
        Quantizer.of(QuantizationOptions(quantize=kind), given, Front(model), model)
