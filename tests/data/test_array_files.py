"""Arrays in files: mapped and not read, checked before they are believed."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ten_samples import FREE, samples

from obs_onnx.data.array_files import open_npy, open_npz
from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.open_source import open_source
from obs_onnx.passes.errors import DataError

METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
X = np.random.default_rng(0).standard_normal((64, 5, 5)).astype(np.float32)


def test_npz_members_are_mapped_not_read(tmp_path):
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", x=samples(), y=np.asfortranarray(samples(4)), z=np.zeros((0, 3)))
        arrays = open_npz(tmp_path / "a.npz")
        assert isinstance(arrays["x"], np.memmap)
        np.testing.assert_array_equal(arrays["x"], samples())
        np.testing.assert_array_equal(arrays["y"], samples(4))
        assert arrays["z"].shape == (0, 3)


def test_bfloat16_survives_npz(tmp_path):
    x = samples().astype(ml_dtypes.bfloat16)
    np.savez(tmp_path / "a.npz", x=x)
    source = open_source(tmp_path / "a.npz", (TensorSpec("x", ("N", 3), np.dtype(ml_dtypes.bfloat16)),))
    np.testing.assert_array_equal(next(iter(source))["x"], x)


def test_bad_files(tmp_path):
    def message(name: str) -> str:
        with pytest.raises(DataError) as caught:
            list(open_source(tmp_path / name, FREE))
        assert name in str(caught.value)
        return str(caught.value)

    (tmp_path / "text.npz").write_text("not a zip")
    assert "not an npz file" in message("text.npz")
    (tmp_path / "empty.npz").write_bytes(b"")
    assert "not an npz file" in message("empty.npz")
    np.savez(tmp_path / "whole.npz", x=samples(1000))
    data = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(data[: len(data) // 2])
    assert "damaged" in message("half.npz")
    np.savez(tmp_path / "objects.npz", x=np.array([{}, 1], object))
    assert "pickled" in message("objects.npz")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "holds no arrays" in message("other.npz")
    with zipfile.ZipFile(tmp_path / "junk.npz", "w") as archive:
        archive.writestr("x.npy", b"no array at all")
    assert "array 'x' is damaged" in message("junk.npz")
    np.save(tmp_path / "objects.npy", np.array([{}, 1], object))
    assert "plain numbers" in message("objects.npy")
    (tmp_path / "junk.npy").write_bytes(b"junk")
    assert "does not begin as numpy.save writes it" in message("junk.npy")
    (tmp_path / "folder").mkdir()
    assert "holds no npz, npy or image files" in message("folder")


def npy(array: np.ndarray, change: Callable[[bytes], bytes] = lambda raw: raw) -> bytes:
    """The bytes of an npy file."""
    stream = io.BytesIO()
    np.save(stream, array)
    return change(stream.getvalue())


def archive(path: Path, method: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items():
            file.writestr(f"{name}.npy", data)
    return path


def declare(shape: tuple[int, ...]) -> Callable[[bytes], bytes]:
    """The same header but for the shape, of the same length."""

    def change(raw: bytes) -> bytes:
        old = b"(64, 5, 5), "
        assert old in raw
        head, _, tail = raw.partition(old)
        given = f"{shape}, ".encode()
        end = tail.index(b"\n")
        text = tail[:end].rstrip()
        return head + given + text.ljust(end + len(old) - len(given)) + tail[end:]

    return change


@pytest.mark.parametrize("method", METHODS)
class TestArchives:
    def test_whole(self, tmp_path, method):
        found = open_npz(archive(tmp_path / "a.npz", method, x=npy(X), n=npy(np.array(3))))
        np.testing.assert_array_equal(found["x"], X)
        assert found["n"] == 3

    def test_flipped_bits(self, tmp_path, method):
        path = archive(tmp_path / "a.npz", method, x=npy(X))
        raw = bytearray(path.read_bytes())
        for position in (400, 1000, 3000):
            broken = raw.copy()
            broken[position] ^= 0x40
            path.write_bytes(broken)
            with pytest.raises(DataError, match=r"a\.npz: .*(damaged|corrupt)"):
                open_npz(path)

    @pytest.mark.parametrize("shape", [(63, 5, 5), (65, 5, 5), (-64, 5, 5), (0, 5, 5), (2**60, 5), ()])
    def test_a_header_that_lies(self, tmp_path, method, shape):
        path = archive(tmp_path / "a.npz", method, x=npy(X, declare(shape)))
        with pytest.raises(DataError, match="array 'x' is damaged: its header declares"):
            open_npz(path)

    def test_more_than_declared_is_not_unpacked(self, tmp_path, method, monkeypatch):
        def fails(*_: object, **__: object) -> None:
            raise AssertionError

        monkeypatch.setattr("tempfile.TemporaryFile", fails)
        path = archive(tmp_path / "a.npz", method, x=npy(X) + bytes(10_000_000))
        with pytest.raises(DataError, match="6528 bytes, but 10006528 are there"):
            open_npz(path)

    def test_objects(self, tmp_path, method):
        stream = io.BytesIO()
        np.save(stream, np.array([{}], object), allow_pickle=True)
        with pytest.raises(DataError, match="'x' holds pickled Python objects"):
            open_npz(archive(tmp_path / "a.npz", method, x=stream.getvalue()))


def patched(path: Path, local: int, central: int, value: int) -> Path:
    """An archive with a byte of both headers of its member changed."""
    raw = bytearray(path.read_bytes())
    raw[raw.find(b"PK\x03\x04") + local] = value
    raw[raw.find(b"PK\x01\x02") + central] = value
    path.write_bytes(raw)
    return path


def test_encrypted_and_unknown_members(tmp_path):
    with pytest.raises(DataError, match="array 'x' is encrypted"):
        open_npz(patched(archive(tmp_path / "a.npz", x=npy(X)), 6, 8, 1))
    with pytest.raises(DataError, match=r"array 'x' is damaged, or cannot be unpacked: .*compression"):
        open_npz(patched(archive(tmp_path / "b.npz", x=npy(X)), 8, 10, 99))


def test_two_arrays_of_one_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x.npy", npy(X))
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("x.npy", npy(2 * X))
    with pytest.raises(DataError, match="holds 2 arrays 'x'"):
        open_npz(tmp_path / "a.npz")


def test_a_file_that_changes_is_checked_again(tmp_path):
    path = archive(tmp_path / "a.npz", x=npy(X))
    open_npz(path)
    raw = bytearray(path.read_bytes())
    raw[3000] ^= 1
    (tmp_path / "new").write_bytes(raw)
    (tmp_path / "new").replace(path)
    with pytest.raises(DataError, match="CRC"):
        open_npz(path)


@pytest.mark.parametrize("shape", [(63, 5, 5), (65, 5, 5), (-64, 5, 5)])
def test_npy_files_that_lie(tmp_path, shape):
    path = tmp_path / "x.npy"
    path.write_bytes(npy(X, declare(shape)))
    with pytest.raises(DataError, match=r"x\.npy is damaged: its header declares"):
        open_npy(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_archives_are_refused_or_right(tmp_path, data):
    method = data.draw(st.sampled_from(METHODS))
    path = archive(tmp_path / "a.npz", method, x=npy(X[:8]), y=npy(X[0].astype(np.int64)))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        if data.draw(st.booleans()):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        elif len(raw) > 1:
            del raw[data.draw(st.integers(1, len(raw) - 1)) :]
    path.write_bytes(raw)
    try:
        found = open_npz(path)
    except DataError:
        return
    for name, wanted in (("x", X[:8]), ("y", X[0].astype(np.int64))):
        if name in found:
            np.testing.assert_array_equal(found[name], wanted)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': ('a', 4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4.0,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4)}",
        "{'descr': '<q9', 'fortran_order': False, 'shape': (4,)}",
        "{'descr': '<f4', 'shape': (4,)}",
        "__import__('os')",
        "(" * 3000,
    ],
)
def test_headers_that_lie_are_told_in_our_words(tmp_path, header) -> None:
    text = header.encode().ljust(4000) + b"\n"
    raw = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(16)
    (tmp_path / "a.npy").write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.npy is damaged: it(s header declares| does not begin as)"):
        open_npy(tmp_path / "a.npy")
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", kind) as archive:
            archive.writestr("x.npy", raw)
        with pytest.raises(
            DataError, match=r"array 'x' is damaged: it(s header declares| does not begin as)"
        ):
            open_npz(tmp_path / "a.npz")
