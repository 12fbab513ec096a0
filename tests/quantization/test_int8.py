"""Quantization after pruning: the written files are checked with code of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime.quantization
import pytest
from nets import data, mlp, residual, run_proto, transformer
from onnx import numpy_helper
from repository import MODELS

from obs_onnx import prune
from obs_onnx.data.open_source import open_source
from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import ModelError, OptionError, VerificationError
from obs_onnx.quantization.int8 import check_quantizable, check_quantized_zeros, quantize
from obs_onnx.runtimes import open_runtime

NET, TEST = MODELS / "digits_lenet.onnx", MODELS / "digits_lenet.test.npz"
FAST = {"effort": "quick", "threads": 1, "latency": False, "quantize": "int8"}
ROWS = {"x": data(0, 200, 12)}


def integers(proto: onnx.ModelProto) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Weights that DequantizeLinear reads: values, scales, zero points, by name without suffix."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    return {
        node.input[0].removesuffix("_quantized"): tuple(stored[name] for name in node.input)
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored
    }


def quantized(
    proto: onnx.ModelProto, samples: Mapping[str, Any]
) -> tuple[ir.Model, ir.Model, tuple[str, ...]]:
    """The canonical float model, the quantized one, notes."""
    model, runtime = canonicalize(ir.from_proto(proto)), open_runtime(threads=1)
    source = open_source(dict(samples), runtime.session(serialize(model)).inputs, batch_size=32)
    return model, *quantize(model, source, runtime)


def relative(y: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(y - reference) / np.linalg.norm(reference))


def test_channels(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "small.onnx"
    handlers = list(logging.getLogger().handlers)
    result = prune(NET, output, targets={"macs": 0.5}, eval=TEST, **{**FAST, "latency": True})
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers
    assert {path.name for path in tmp_path.iterdir()} == {
        "small.onnx",
        "small.int8.onnx",
        "small.keep.json",
    }
    report = result.report
    assert report.quantized == str(tmp_path / "small.int8.onnx")
    small, int8 = onnx.load(output), onnx.load(tmp_path / "small.int8.onnx")
    onnx.checker.check_model(int8, full_check=True)
    test = np.load(TEST)
    x, labels = test["input"], test["labels"]
    name = small.graph.output[0].name
    scores, floats = run_proto(int8, {"input": x})[name], run_proto(small, {"input": x})[name]
    assert 0 < relative(scores, floats) < 0.03
    rows = {row["model"]: row for row in report.to_json()["combinations"]}
    assert list(rows) == ["dense", "dense int8", "pruned", "pruned int8"]
    assert rows["pruned int8"]["accuracy"] == pytest.approx((scores.argmax(1) == labels).mean(), abs=5e-3)
    assert rows["pruned"]["accuracy"] == report.after.accuracy
    assert rows["pruned"]["output_error"] == pytest.approx(report.output_error)
    assert rows["dense"]["output_error"] is None
    assert rows["pruned int8"]["file_bytes"] == (tmp_path / "small.int8.onnx").stat().st_size
    assert rows["dense int8"]["file_bytes"] < 0.5 * rows["dense"]["file_bytes"]
    assert all(row["latency_ms"]["median"] > 0 for row in rows.values())


def test_zeros_stay_zeros(tmp_path: Path) -> None:
    output = tmp_path / "sparse.onnx"
    model, samples = residual(), {"x": data(1, 96, 3, 8, 8)}
    prune(model, output, calib=samples, mode="weights", targets={"sparsity": 0.6}, **FAST)
    floats = {t.name: numpy_helper.to_array(t) for t in onnx.load(output).graph.initializer}
    found = integers(onnx.load(tmp_path / "sparse.int8.onnx"))
    layers = [name for name, array in floats.items() if array.ndim > 1]
    assert len(layers) == 7
    for name in layers:
        values, scales, points = found[name]
        assert values.dtype == np.int8
        assert not points.any()
        assert len(scales) == floats[name].shape[0]  # per channel
        assert (values[floats[name] == 0] == 0).all()
        by_channel = scales.reshape(-1, *[1] * (values.ndim - 1))
        assert relative(values * by_channel, floats[name]) < 0.2  # rounding takes up what others lost
    zeros = sum(int((floats[name] == 0).sum()) for name in layers)
    assert zeros >= 0.6 * sum(floats[name].size for name in layers)


def test_a_transformer() -> None:
    samples = {"x": data(2, 64, 6, 10)}
    model, found, notes = quantized(transformer(), samples)
    assert not notes
    y, reference = (run_proto(ir.to_proto(one), samples)["y"] for one in (found, model))
    assert relative(y, reference) < 0.1
    assert {value.dtype for value in found.graph.initializers.values()} >= {ir.DataType.INT8}


def test_masks_do_not_swamp_what_they_leave(make_proto: Callable[..., onnx.ModelProto]) -> None:
    rng = np.random.default_rng(1)
    proto = make_proto(
        "g (float[N,6,8] x) => (float[N,6,8] y) { q = MatMul(x, w) t = Transpose <perm = [0, 2, 1]> (x)"
        " s = MatMul(q, t) m = Add(s, mask) p = Softmax <axis = -1> (m) a = MatMul(p, x) y = MatMul(a, v) }",
        {
            "w": rng.normal(size=(8, 8)).astype(np.float32),
            "v": rng.normal(size=(8, 8)).astype(np.float32),
            "mask": np.triu(np.full((6, 6), np.finfo(np.float32).min), 1).astype(np.float32),
        },
    )
    samples = {"x": data(3, 64, 6, 8)}
    model, found, _ = quantized(proto, samples)
    y, reference = (run_proto(ir.to_proto(one), samples)["y"] for one in (found, model))
    assert relative(y, reference) < 0.05
    assert {"w", "v"} <= set(integers(ir.to_proto(found)))


def test_names_that_onnxruntime_would_give(make_proto: Callable[..., onnx.ModelProto]) -> None:
    rng = np.random.default_rng(0)
    proto = make_proto(
        "g (float[N,12] x) => (float[N,4] y) { a = MatMul(x, w) y = Add(a, w_scale) }",
        {"w": rng.normal(size=(12, 4)).astype(np.float32), "w_scale": np.full(4, 5, np.float32)},
    )
    model, found, _ = quantized(proto, ROWS)
    reference = run_proto(ir.to_proto(model), ROWS)["y"]
    assert relative(run_proto(ir.to_proto(found), ROWS)["y"], reference) < 0.03


def test_old_opsets(make_proto: Callable[..., onnx.ModelProto], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    text = "g (float[N,12] x) => (float[N,4] y) { a = Gemm(x, w, b) r = Relu(a) y = Gemm(r, v, c) }"
    arrays = {"w": (12, 16), "b": (16,), "v": (16, 4), "c": (4,)}
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in arrays.items()}
    proto = make_proto(text, tensors, opset=11, ir_version=6)
    model, found, notes = quantized(proto, ROWS)
    assert found.opset_imports[""] == 13
    assert not notes
    reference = run_proto(ir.to_proto(model), ROWS)["y"]
    assert relative(run_proto(ir.to_proto(found), ROWS)["y"], reference) < 0.03

    def fails(*_: object) -> None:
        raise RuntimeError("no adapter")

    monkeypatch.setattr(onnx.version_converter, "convert_version", fails)
    _, found, notes = quantized(proto, ROWS)
    assert "one scale for each weight" in notes[0]
    assert integers(ir.to_proto(found))["w"][1].size == 1
    assert relative(run_proto(ir.to_proto(found), ROWS)["y"], reference) < 0.05


def as_half(proto: onnx.ModelProto) -> onnx.ModelProto:
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
        )
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return proto


class TestRefused:
    def check(self, tmp_path: Path, message: str, proto: onnx.ModelProto, **options: Any) -> None:
        error = options.pop("error", OptionError)
        given = {"mode": "weights", "targets": {"sparsity": 0.5}, "calib": ROWS, **FAST, **options}
        with pytest.raises(error, match=message):
            prune(proto, tmp_path / "out.onnx", **given)
        assert not list(tmp_path.iterdir())

    def test_half(self, tmp_path: Path) -> None:
        rows = {"x": ROWS["x"].astype(np.float16)}
        self.check(tmp_path, "fc1.weight is float16: give the float32", as_half(mlp()), calib=rows)

    def test_already_quantized(self, tmp_path: Path) -> None:
        found = ir.to_proto(quantized(mlp((12, 16, 5)), ROWS)[1])
        floating = onnx.helper.make_node("Gemm", ["x", "more", ""], ["z"], name="more")
        found.graph.node.append(floating)
        found.graph.initializer.append(numpy_helper.from_array(np.ones((12, 3), np.float32), "more"))
        found.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, ["batch", 3]))
        self.check(tmp_path, "is quantized already", found)

    def test_unknown_type_and_custom_operators(self, tmp_path: Path) -> None:
        self.check(tmp_path, "use one of int8, int8-weights, int4-weights", mlp(), quantize="int4")
        self.check(tmp_path, "libraries of custom operators", mlp(), custom_ops=["lib.so"])

    def test_what_onnxruntime_refuses(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*_: object, **__: object) -> None:
            raise ValueError("no such\nthing")

        monkeypatch.setattr(onnxruntime.quantization, "quantize_static", fails)
        self.check(tmp_path, "cannot quantize the model: no such thing", mlp(), error=ModelError)


def test_broken_zeros_are_found() -> None:
    model, found, _ = quantized(mlp((12, 16, 5)), ROWS)
    assert check_quantized_zeros(model, found) == 0
    weight = model.graph.initializers["fc1.weight"]
    array = weight.const_value.numpy().copy()
    array[3, 4] = 0
    weight.const_value = ir.tensor(array, name="fc1.weight")
    with pytest.raises(VerificationError, match=r"zeros of weight fc1.weight are no zeros"):
        check_quantized_zeros(model, found)
    del found.graph.initializers["fc1.weight_quantized"]
    with pytest.raises(VerificationError, match=r"fc1.weight is missing"):
        check_quantized_zeros(model, found)


def test_targets_that_hold_in_integers(tmp_path: Path) -> None:
    """The file of integers, in operators on integers, is what the target is about."""
    output = tmp_path / "small.onnx"
    given = {**FAST, "quantize_format": "qoperator", "targets_on": "quantized"}
    report = prune(NET, output, targets={"size": 0.15}, eval=TEST, **given).report
    share = (tmp_path / "small.int8.onnx").stat().st_size / NET.stat().st_size
    assert report.met
    assert share <= 0.15
    assert report.reached["size"] == pytest.approx(share, abs=2e-3)
    assert report.targets == {"size": 0.15}
    assert "size: measured on the model in integers" in " ".join(report.notes)
    kinds = {node.op_type for node in onnx.load(tmp_path / "small.int8.onnx").graph.node}
    assert "QLinearConv" in kinds
    assert "Conv" not in kinds


def test_what_is_quantized_is_told_by_the_tables(make_model: Callable[..., ir.Model]) -> None:
    """Whatever the operator is called."""
    model = make_model(
        "g (float[N,16] x) => (float[N,8] y) { h = MatMul(x, w)"
        "y = com.microsoft.MatMulBnb4 <K = 16, N = 8, block_size = 16, quant_type = 1> (h, b, absmax) }",
        {"w": np.eye(16, dtype=np.float32), "b": np.zeros(64, np.uint8), "absmax": np.ones(8, np.float32)},
    )
    with pytest.raises(OptionError, match=r"MatMulBnb4\) is quantized already: give the float model"):
        check_quantizable(canonicalize(model))
