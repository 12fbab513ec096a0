"""Rows of arrays and files, mapped and not read."""

from __future__ import annotations

import zipfile

import ml_dtypes
import numpy as np
import pytest
from ten_samples import FREE, samples

from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.open_source import open_source
from obs_onnx.data.rows import open_npz
from obs_onnx.passes.errors import DataError


def test_npz_members_are_mapped_not_read(tmp_path):
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", x=samples(), y=np.asfortranarray(samples(4)), z=np.zeros((0, 3)))
        arrays = open_npz(tmp_path / "a.npz")
        assert isinstance(arrays["x"], np.memmap)
        np.testing.assert_array_equal(arrays["x"], samples())
        np.testing.assert_array_equal(arrays["y"], samples(4))
        assert arrays["z"].shape == (0, 3)


def test_npy_files_must_agree(tmp_path):
    np.save(tmp_path / "a.npy", samples(2))
    np.save(tmp_path / "b.npy", np.zeros((2, 4), np.float32))
    with pytest.raises(DataError, match=r"b\.npy: .* all files must agree"):
        open_source(tmp_path, FREE)
    np.save(tmp_path / "b.npy", np.zeros((1, 1, 1, 3), np.float32))
    with pytest.raises(DataError, match=r"b\.npy: array has 4 axes; one sample has 1, a batch 2"):
        open_source(tmp_path, FREE)


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
    assert "cannot read it" in message("junk.npy")
    (tmp_path / "folder").mkdir()
    assert "holds no npz, npy or image files" in message("folder")
