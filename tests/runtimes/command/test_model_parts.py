"""A model and its external data as parts to send."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from obs_onnx.passes.errors import ModelError
from obs_onnx.runtimes.command import model_parts as module
from obs_onnx.runtimes.command.model_parts import Part, model_parts

W, B = np.arange(64, dtype=np.float32).reshape(8, 8), np.ones((8, 8), np.float32)


@pytest.fixture
def path(make_proto, tmp_path: Path) -> Path:
    """A model with one weight in each of two files, one of them in a folder of its own."""
    proto = make_proto(
        "g (float[N,8] x) => (float[N,8] y) { h = MatMul(x, w)  y = MatMul(h, b) }", {"w": W, "b": B}
    )
    (tmp_path / "deep").mkdir()
    for tensor, name in zip(proto.graph.initializer, ("w.bin", "deep/b.bin"), strict=True):
        (tmp_path / name).write_bytes(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=name)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    return tmp_path / "m.onnx"


def contents(parts: tuple[Part, ...]) -> dict[str, bytes]:
    found = {part.name: b"".join(part.chunks()) for part in parts}
    assert [len(data) for data in found.values()] == [part.size for part in parts]
    return found


def test_the_model_comes_first_and_then_each_file_once(path: Path) -> None:
    for parts in (model_parts(path), model_parts(str(path)), model_parts(path.read_bytes(), path.parent)):
        found = contents(parts)
        assert list(found)[1:] == ["w.bin", "deep/b.bin"]
        assert found["w.bin"] == W.tobytes()
        assert found["deep/b.bin"] == B.tobytes()
        assert found[parts[0].name] == path.read_bytes()


def test_bytes_without_a_folder_are_sent_alone(path: Path) -> None:
    (part,) = model_parts(path.read_bytes())
    assert contents((part,)) == {part.name: path.read_bytes()}
    (part,) = model_parts(b"no model at all", path.parent)
    assert part.size == 15


def test_large_files_come_in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 100)
    _, first, _ = model_parts(path)
    assert [len(chunk) for chunk in first.chunks()] == [100, 100, 56]


def test_a_file_that_shrinks_while_it_is_sent(path: Path) -> None:
    _, first, _ = model_parts(path)
    (path.parent / "w.bin").write_bytes(b"short")
    with pytest.raises(ModelError, match=r"w\.bin became shorter while it was sent"):
        list(first.chunks())
    (path.parent / "w.bin").unlink()
    with pytest.raises(ModelError, match=r"w\.bin cannot be read: No such file"):
        list(first.chunks())


def test_what_cannot_be_sent(path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.onnx does not exist"):
        model_parts(path.parent / "nowhere.onnx")
    with pytest.raises(ModelError, match="cannot be read"):
        model_parts(path.parent)
    with monkeypatch.context() as patch:
        patch.setattr(module, "PAYLOAD_LIMIT", 300)
        with pytest.raises(ModelError, match="too large to send"):
            model_parts(path)
    (path.parent / "w.bin").unlink()
    with pytest.raises(ModelError, match=r"external data 'w\.bin' of the model is missing"):
        model_parts(path)
    outside = tmp_path_factory.mktemp("outside") / "w.bin"
    outside.write_bytes(W.tobytes())
    (path.parent / "w.bin").symlink_to(outside)
    with pytest.raises(ModelError, match="lies outside the folder of the model"):
        model_parts(path)
