"""Weights beside a model: links as caches have them, names from other systems, and nothing from elsewhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_files import WEIGHTS, fails

from obs_onnx.io.external_data import data_file, folders_of, possible_files
from obs_onnx.io.model_files import files_of
from obs_onnx.io.onnx_file import load_model, save_model, serialize
from obs_onnx.passes.errors import ModelError

Store = Callable[[Path, str], Path]


@pytest.fixture
def beside(proto: onnx.ModelProto) -> Store:
    """Stores the model in a folder, its weights in a file that it names as given."""

    def store(folder: Path, location: str, stored: str | None = None) -> Path:
        (folder / (stored or location)).parent.mkdir(parents=True, exist_ok=True)
        for weight in proto.graph.initializer:
            weight.data_location = onnx.TensorProto.EXTERNAL
            offset = 0 if weight.name == "w" else 128
            for key, value in (("location", location), ("offset", str(offset))):
                weight.external_data.add(key=key, value=value)
            weight.ClearField("raw_data")
        (folder / (stored or location)).write_bytes(b"".join(WEIGHTS[name].tobytes() for name in "wb"))
        (folder / "m.onnx").write_bytes(proto.SerializeToString())
        return folder / "m.onnx"

    return store


def linked(link: Path, target: Path) -> None:
    """A relative link."""
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(target, os.path.realpath(link.parent)))


def loads(path: Path) -> None:
    model = load_model(path)
    for name, array in WEIGHTS.items():
        tensor = model.graph.initializers[name].const_value
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), array)
    stored = onnx.load_model_from_string(serialize(model))
    assert all(one.data_location == onnx.TensorProto.DEFAULT for one in stored.graph.initializer)


@pytest.fixture(params=["", "onnx", "onnx/deep"])
def cache(request: pytest.FixtureRequest, beside: Store, tmp_path: Path) -> Path:
    """A model in a cache of Hugging Face, by the name in its snapshot."""
    repository = tmp_path / "models--me--tiny"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / "0123abcd" / request.param
    raw = beside(tmp_path / "raw", "m.onnx_data")
    blobs.mkdir(parents=True)
    for name, digest in (("m.onnx", "aa11"), ("m.onnx_data", "bb22")):
        shutil.move(raw.parent / name, blobs / digest)
        linked(snapshot / name, blobs / digest)
    return snapshot / "m.onnx"


class TestCache:
    def test_it_loads_through_its_links(self, cache: Path) -> None:
        loads(cache)
        assert [path.name for path in files_of(cache)] == ["m.onnx", "m.onnx_data"]
        assert files_of(load_model(cache)) == [Path(os.path.realpath(cache.with_name("m.onnx_data")))]

    def test_through_further_links(self, cache: Path, tmp_path: Path) -> None:
        linked(tmp_path / "mine.onnx", cache)
        loads(tmp_path / "mine.onnx")
        linked(tmp_path / "elsewhere" / "folder", cache.parent)
        loads(tmp_path / "elsewhere" / "folder" / "m.onnx")

    def test_with_a_copy_of_the_model_in_place_of_its_link(self, cache: Path) -> None:
        data = cache.read_bytes()
        cache.unlink()
        cache.write_bytes(data)
        loads(cache)

    def test_data_that_was_not_downloaded(self, cache: Path) -> None:
        cache.with_name("m.onnx_data").resolve().unlink()
        fails(cache, "'m.onnx_data'", "missing")
        cache.with_name("m.onnx_data").unlink()
        fails(cache, "'m.onnx_data'", "missing")

    def test_nothing_outside_of_the_cache_is_read(self, cache: Path, tmp_path: Path) -> None:
        data = cache.with_name("m.onnx_data")
        secret = tmp_path / "secret"
        secret.write_bytes(data.read_bytes())
        data.unlink()
        linked(data, secret)
        fails(cache, "outside")
        other = tmp_path / "models--me--other" / "blobs" / "cc33"
        other.parent.mkdir(parents=True)
        shutil.move(secret, other)
        data.unlink()
        linked(data, other)
        fails(cache, "outside")


def test_blobs_that_are_a_link_are_no_cache(beside: Store, tmp_path: Path) -> None:
    secret = tmp_path / "secret" / "bb22"
    path = beside(tmp_path / "repository" / "snapshots" / "0", "w.bin")
    secret.parent.mkdir()
    shutil.move(path.with_name("w.bin"), secret)
    linked(tmp_path / "repository" / "blobs", secret.parent)
    linked(path.with_name("w.bin"), tmp_path / "repository" / "blobs" / "bb22")
    fails(path, "outside")


def test_data_beside_a_link_or_beside_the_file(beside: Store, tmp_path: Path) -> None:
    path = beside(tmp_path / "store", "w.bin")
    linked(tmp_path / "link.onnx", path)
    loads(tmp_path / "link.onnx")
    shutil.move(path.with_name("w.bin"), tmp_path / "w.bin")
    loads(tmp_path / "link.onnx")
    fails(path, "missing")


def test_hard_links(beside: Store, tmp_path: Path) -> None:
    path = beside(tmp_path / "store", "w.bin")
    os.link(path.with_name("w.bin"), tmp_path / "other name")
    loads(path)


@pytest.mark.parametrize(
    ("location", "stored"),
    [
        ("weights/w.bin", None),
        ("./w.bin", "w.bin"),
        ("weights//w.bin", "weights/w.bin"),
        ("权重 数据 ö.bin", None),
        ("weights\\w.bin", "weights/w.bin"),
        (".\\a b\\w.bin", "a b/w.bin"),
        ("weights\\w.bin", None),  # where a backslash is a letter like others
    ],
)
def test_names(beside: Store, tmp_path: Path, location: str, stored: str | None) -> None:
    path = beside(tmp_path / "模型", location, stored)
    loads(path)
    assert [found.resolve() for found in files_of(path)] == [path, path.parent / (stored or location)]
    save_model(load_model(path), tmp_path / "out.onnx")
    loads(tmp_path / "out.onnx")


@pytest.mark.parametrize(
    "location", ["..\\w.bin", "a\\..\\..\\w.bin", "C:\\w.bin", "C:w.bin", "\\\\s\\d\\w.bin"]
)
def test_windows_names_of_places_outside(beside: Store, tmp_path: Path, location: str) -> None:
    path = beside(tmp_path / "inner", location, "unused")
    shutil.copy(tmp_path / "inner" / "unused", tmp_path / "w.bin")
    fails(path, "outside")


def test_folders_of_a_model_without_doubles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.onnx").touch()
    linked(tmp_path / "a" / "b.onnx", tmp_path / "m.onnx")
    linked(tmp_path / "c.onnx", tmp_path / "a" / "b.onnx")
    top, inner = str(tmp_path), str(tmp_path / "a")
    assert folders_of(tmp_path / "m.onnx") == (top,)
    assert folders_of(tmp_path / "a" / "b.onnx") == (inner, top)
    assert folders_of(tmp_path / "c.onnx") == (top, inner)
    linked(tmp_path / "turn", tmp_path / "turn")
    assert folders_of(tmp_path / "turn") == (top,)
    monkeypatch.chdir(tmp_path / "a")
    assert folders_of("b.onnx") == (inner, top)


def test_possible_files() -> None:
    assert possible_files("w", ("a", "b")) == ["a/w", "b/w"]
    assert possible_files("f\\w", ("a",)) == ["a/f\\w", "a/f/w"]


def test_data_file_names_its_subject(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^the weights is missing"):
        data_file("none", (str(tmp_path),), "the weights")
