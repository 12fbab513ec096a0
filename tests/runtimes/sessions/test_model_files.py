"""Files whose side files a runtime does not find by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from obs_onnx import bench, evaluate
from obs_onnx.passes.errors import ModelError
from obs_onnx.runtimes import open_runtime
from obs_onnx.runtimes.sessions.model_files import open_session

W = np.arange(12, dtype=np.float32).reshape(4, 3)
X = np.eye(4, dtype=np.float32)


@pytest.fixture
def stored(make_proto, tmp_path: Path) -> Path:
    """A model whose weights lie in a folder, by the path that Windows has for it."""
    proto = make_proto("g (float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }", {"w": W})
    (tensor,) = proto.graph.initializer
    onnx.external_data_helper.set_external_data(tensor, "weights\\w.bin")
    tensor.ClearField("raw_data")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_bytes(W.tobytes())
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    return tmp_path / "m.onnx"


def test_side_files_with_a_path_of_windows(stored: Path) -> None:
    session = open_session(open_runtime("onnxruntime", 1), stored)
    np.testing.assert_array_equal(session.run({"x": X})["y"], W)
    assert evaluate(stored, {"x": X}, against=stored).output_error == 0
    assert bench([stored], seconds=0.05).latencies[0].median > 0


def test_what_is_no_model_is_told_as_ever(stored: Path, tmp_path: Path) -> None:
    runtime = open_runtime("onnxruntime", 1)
    (tmp_path / "weights" / "w.bin").unlink()
    with pytest.raises(ModelError, match="weights"):
        open_session(runtime, stored)
    (tmp_path / "no.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="no\\.onnx"):
        open_session(runtime, tmp_path / "no.onnx")
    with pytest.raises(ModelError, match="the model"):
        open_session(runtime, b"nothing")
