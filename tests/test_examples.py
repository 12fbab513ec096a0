"""The scripts of examples/ run, on small data; each where its packages are."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from nets import data, mlp, residual
from onnx import TensorProto, helper, numpy_helper
from repository import ROOT

EXAMPLES = ROOT / "examples"
FAST: dict[str, Any] = {"latency": False, "effort": "quick", "threads": 1}


def load(name: str) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{Path(name).stem}", EXAMPLES / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def needs(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs the package {package}")


def test_scikit_learn(tmp_path: Path) -> None:
    needs("sklearn", "skl2onnx")
    assert load("scikit_learn.py").main(tmp_path) > 0.9


def test_pytorch() -> None:
    needs("torch", "onnxscript")
    sliced = load("pytorch_train_on.py").main()
    assert sliced.pruned.report.met
    assert sliced.difference < 1e-5


def test_keras(tmp_path: Path) -> None:
    needs("tensorflow", "tf2onnx")
    assert load("keras_export.py").main(tmp_path).report.met


def detector() -> onnx.ModelProto:
    """A small net of the form of YOLO: SiLU, halves that are joined, two scales, boxes beside scores."""
    random = np.random.default_rng(0)
    nodes, held = [], []

    def conv(x: str, y: str, ins: int, outs: int, kernel: int = 3, stride: int = 1) -> str:
        weight = random.normal(0, (ins * kernel**2) ** -0.5, (outs, ins, kernel, kernel)).astype(np.float32)
        held.extend(
            [
                numpy_helper.from_array(weight, f"{y}.w"),
                numpy_helper.from_array(np.zeros(outs, "f4"), f"{y}.b"),
            ]
        )
        pads = [kernel // 2] * 4
        nodes.append(
            helper.make_node("Conv", [x, f"{y}.w", f"{y}.b"], [y], y, strides=[stride] * 2, pads=pads)
        )
        return y

    def silu(x: str) -> str:
        nodes.append(helper.make_node("Sigmoid", [x], [f"{x}.s"]))
        nodes.append(helper.make_node("Mul", [x, f"{x}.s"], [f"{x}.silu"]))
        return f"{x}.silu"

    x = silu(conv("images", "stem", 3, 16, stride=2))
    x = silu(conv(x, "cv1", 16, 32, 1))
    nodes.append(helper.make_node("Split", [x], ["left", "right"], axis=1, num_outputs=2))
    y = silu(conv(silu(conv("right", "m1", 16, 16)), "m2", 16, 16))
    nodes.append(helper.make_node("Add", ["right", y], ["short"]))
    nodes.append(helper.make_node("Concat", ["left", "right", "short"], ["joined"], axis=1))
    fine = silu(conv("joined", "cv2", 48, 32, 1))
    coarse = silu(conv(fine, "down", 32, 48, stride=2))
    held += [numpy_helper.from_array(np.array([1, 9, -1]), "flat")]
    for name, at, ins in (("p3", fine, 32), ("p4", coarse, 48)):
        conv(silu(conv(at, f"{name}.box", ins, 16)), f"{name}.box.out", 16, 4, 1)
        conv(silu(conv(at, f"{name}.cls", ins, 16)), f"{name}.cls.out", 16, 5, 1)
        nodes.append(helper.make_node("Concat", [f"{name}.box.out", f"{name}.cls.out"], [name], axis=1))
        nodes.append(helper.make_node("Reshape", [name, "flat"], [f"{name}.flat"]))
    nodes.append(helper.make_node("Concat", ["p3.flat", "p4.flat"], ["output0"], axis=2))
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "yolo",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 32, 32])],
            [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 9, 320])],
            held,
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    helper.set_model_props(model, {"names": "{0: 'cat'}", "stride": "32", "task": "detect"})
    return model


def test_ultralytics_hook(tmp_path: Path) -> None:
    """As its exporter calls it; with images in memory, so that no package for images is needed."""
    onnx.save(detector(), tmp_path / "yolo.onnx")
    images = np.random.default_rng(1).uniform(0, 1, (48, 3, 32, 32)).astype(np.float32)
    called = load("ultralytics_yolo.py").hook({"images": images}, **FAST)
    called(type("Exporter", (), {"file": tmp_path / "yolo.pt"})())
    small = onnx.load(tmp_path / "yolo-small.onnx")
    assert {one.key: one.value for one in small.metadata_props}["names"] == "{0: 'cat'}"
    session = onnxruntime.InferenceSession(small.SerializeToString())
    assert session.run(None, {"images": images[:1]})[0].shape == (1, 9, 320)
    assert sum(np.prod(one.dims) for one in small.graph.initializer) < 0.9 * sum(
        np.prod(one.dims) for one in detector().graph.initializer
    )


def test_hugging_face_folder(tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "onnx").mkdir(parents=True)
    onnx.save(mlp(), source / "model.onnx")
    onnx.save(
        mlp((12, 40, 5)),
        source / "onnx" / "other.onnx",
        save_as_external_data=True,
        location="other.onnx_data",
        size_threshold=0,
    )
    (source / "config.json").write_text('{"model_type": "bert"}')
    (source / "tokenizer.json").write_text("{}")
    found = load("hugging_face_folder.py").prune_folder(
        source, tmp_path / "out", data(1, 64, 12), targets={"params": 0.6}, **FAST
    )
    out = tmp_path / "out"
    assert sorted(found) == ["model.onnx", "onnx/other.onnx"]
    assert (out / "config.json").read_text() == (source / "config.json").read_text()
    assert (out / "tokenizer.json").is_file()
    assert not (out / "onnx" / "other.onnx_data").exists()  # of the dense model
    record = json.loads((out / "obs_onnx.json").read_text())
    assert all(one["met"] and one["parameters"] <= 0.6 * one["of"] for one in record.values())
    onnxruntime.InferenceSession(out / "onnx" / "other.onnx")


@pytest.mark.parametrize(
    ("targets", "code"), [(["macs=0.6"], 0), (["macs=0.1", "error=0.1%"], 3), (["speed=1"], 2)]
)
def test_gate(tmp_path: Path, targets: list[str], code: int) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    np.savez(tmp_path / "m.calib.npz", x=data(1, 64, 12))
    words = [
        sys.executable,
        EXAMPLES / "ci_gate" / "gate.py",
        tmp_path / "m.onnx",
        "--output",
        tmp_path / "out",
    ]
    words += [f"--target={one}" for one in targets]
    done = subprocess.run(words, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "out" / "m.onnx").exists() == (code != 2)


def test_olive_pass(tmp_path: Path) -> None:
    needs("olive")
    onnx.save(residual(), tmp_path / "m.onnx")
    np.savez(tmp_path / "calib.npz", x=data(1, 96, 3, 8, 8))
    found = load("olive_pass.py").main(
        str(tmp_path / "m.onnx"), str(tmp_path / "calib.npz"), str(tmp_path / "out")
    )
    small, dense = onnx.load(found.model_path), residual()
    assert sum(np.prod(one.dims) for one in small.graph.initializer) < sum(
        np.prod(one.dims) for one in dense.graph.initializer
    )
