"""Weights in temporary files: the same values, and files that go with them."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import onnx_ir as ir

from obs_onnx.io.onnx_file import load_model, save_model
from obs_onnx.io.scratch import array_outside, let_go, put_away


def model_with(make_model, **weights: np.ndarray) -> ir.Model:
    return make_model("g (float[N,256] x) => (float[N,256] y) { h = MatMul(x, w)  y = Add(h, b) }", weights)


def test_large_weights_lie_in_a_file_until_nothing_refers_to_them(make_model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    w, b = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32), np.ones(256, np.float32)
    model = model_with(make_model, w=w, b=b)
    put_away(model)
    tensors = {name: value.const_value for name, value in model.graph.initializers.items()}
    assert isinstance(tensors["w"], ir.ExternalTensor)
    assert not isinstance(tensors["b"], ir.ExternalTensor)
    np.testing.assert_array_equal(tensors["w"].numpy(), w)
    let_go(model)
    np.testing.assert_array_equal(tensors["w"].numpy(), w)
    assert list(tmp_path.iterdir())
    copy = model.clone()
    del model, tensors
    gc.collect()
    np.testing.assert_array_equal(copy.graph.initializers["w"].const_value.numpy(), w)
    del copy
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_named_weights_alone(make_model) -> None:
    w = np.zeros((256, 256), np.float32)
    model = model_with(make_model, w=w, b=np.ones(256, np.float32))
    put_away(model, ["b"])
    assert not isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)


def test_a_model_that_was_put_away_is_saved_whole(make_model, tmp_path) -> None:
    w = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    model = model_with(make_model, w=w, b=np.ones(256, np.float32))
    put_away(model)
    save_model(model, tmp_path / "model.onnx")
    assert [path.name for path in Path(tmp_path).iterdir()] == ["model.onnx"]
    again = load_model(tmp_path / "model.onnx").graph.initializers["w"].const_value
    np.testing.assert_array_equal(again.numpy(), w)


def test_arrays_outside() -> None:
    large, small = np.arange(40_000, dtype=np.float32).reshape(200, 200), np.ones(3)
    assert array_outside(small) is small
    found = array_outside(large.T)
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, large.T)
