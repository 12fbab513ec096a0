from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from repository import MODELS

FILES = ("digits_mlp.onnx", "digits_mlp.calib.npz", "digits_mlp.test.npz")


def logits_of(model: Path, x: np.ndarray) -> np.ndarray:
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input": x})[0]


def test_digits_mlp_is_the_model_that_the_readme_describes() -> None:
    model = onnx.load(MODELS / "digits_mlp.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (10, 18)
    assert [node.op_type for node in model.graph.node] == ["Gemm", "Relu", "Gemm", "Relu", "Gemm"]
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    assert [shapes[f"fc{i}.weight"] for i in (1, 2, 3)] == [(300, 64), (100, 300), (10, 100)]


def test_digits_mlp_reaches_its_accuracy_on_images_it_has_never_seen() -> None:
    test = np.load(MODELS / "digits_mlp.test.npz")
    calib = np.load(MODELS / "digits_mlp.calib.npz")
    assert calib.files == ["input"]
    assert calib["input"].dtype == test["input"].dtype == np.float32
    seen = {row.tobytes() for row in calib["input"]}
    assert not any(row.tobytes() in seen for row in test["input"])
    predicted = logits_of(MODELS / "digits_mlp.onnx", test["input"]).argmax(axis=1)
    assert np.mean(predicted == test["labels"]) >= 0.97


@pytest.mark.parametrize(("name", "least"), [("digits_lenet", 0.98), ("digits_resnet", 0.975)])
def test_convolutional_models_reach_their_accuracy(name: str, least: float) -> None:
    model = onnx.load(MODELS / f"{name}.onnx")
    onnx.checker.check_model(model, full_check=True)
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("BatchNormalization") == (10 if name == "digits_resnet" else 0)
    test = np.load(MODELS / f"{name}.test.npz")
    predicted = logits_of(MODELS / f"{name}.onnx", test["input"]).argmax(axis=1)
    assert np.mean(predicted == test["labels"]) >= least


@pytest.mark.slow
def test_making_the_models_again_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("make_models", MODELS / "make_models.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "make_models", script)
    spec.loader.exec_module(script)
    written = []
    for run in ("first", "second"):
        monkeypatch.setattr(sys, "argv", ["make_models.py", "digits_mlp", "--output", str(tmp_path / run)])
        script.main()
        written.append([(tmp_path / run / name).read_bytes() for name in FILES])
    assert written[0] == written[1]
    assert (
        np.load(tmp_path / "first" / FILES[1])["input"].tolist()
        == np.load(MODELS / FILES[1])["input"].tolist()
    )
