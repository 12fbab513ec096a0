"""A small model as a file, and files that must not load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from obs_onnx.io.onnx_file import load_model
from obs_onnx.passes.errors import ModelError

TEXT = "g (float[N,8] x) => (float[N,4] y) { h = MatMul(x, w)  y = Add(h, b) }"
WEIGHTS = {"w": np.arange(32, dtype=np.float32).reshape(8, 4), "b": np.ones(4, dtype=np.float32)}


@pytest.fixture
def proto(make_proto):
    proto = make_proto(TEXT, WEIGHTS)
    proto.producer_name, proto.doc_string, proto.model_version = "someone", "what it does", 3
    proto.metadata_props.add(key="classes", value="a,b,c,d")
    proto.graph.doc_string = "the graph"
    return proto


def store(proto: onnx.ModelProto, folder: Path, name: str = "m.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


def fails(path: Path, *words: str) -> None:
    """Loading raises one line that names the file and holds all ``words``."""
    with pytest.raises(ModelError) as caught:
        load_model(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message
