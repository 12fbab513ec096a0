"""The files of a model, known without loading it."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto
from onnx_files import store

from obs_onnx.io.model_files import files_of
from obs_onnx.io.onnx_file import load_model


def test_files_of_models_in_all_forms(proto: onnx.ModelProto, tmp_path: Path) -> None:
    weight = proto.graph.initializer[0]
    assert files_of(store(proto, tmp_path)) == [tmp_path / "m.onnx"]
    (tmp_path / "w.bin").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="w.bin")
    path = store(proto, tmp_path)
    assert files_of(path) == files_of(str(path)) == [path, tmp_path / "w.bin"]
    assert files_of(load_model(path)) == [tmp_path / "w.bin"]
    assert files_of(proto) == [Path("w.bin")]
    (tmp_path / "link.onnx").symlink_to(path)
    assert files_of(tmp_path / "link.onnx") == [tmp_path / "link.onnx", tmp_path / "w.bin"]
    weight.external_data[0].value = "a\0b"
    assert files_of(store(proto, tmp_path)) == [path]


def test_files_of_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    assert files_of(tmp_path / "m.onnx") == [tmp_path / "m.onnx"]
    assert files_of(tmp_path / "none.onnx") == [tmp_path / "none.onnx"]
    assert files_of(tmp_path) == [tmp_path]
    assert files_of(b"bytes") == []  # type: ignore[arg-type]
