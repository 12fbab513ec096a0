"""Figures of models and files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from obs_onnx.evaluation.model_figures import compressed_bytes


def test_compressed_bytes_are_those_of_a_zip_file(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 7, 50_000, dtype=np.uint8).tobytes()
    (tmp_path / "a").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "a", "a")
        expected = archive.getinfo("a").compress_size
    assert compressed_bytes([tmp_path / "a"], chunk=4096) == expected
    assert compressed_bytes([tmp_path / "a", tmp_path / "a"]) == 2 * expected
