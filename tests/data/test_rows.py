"""Rows of arrays and files, mapped and not read."""

from __future__ import annotations

import numpy as np
import pytest
from ten_samples import FREE, samples

from obs_onnx.data.open_source import open_source
from obs_onnx.passes.errors import DataError


def test_npy_files_must_agree(tmp_path):
    np.save(tmp_path / "a.npy", samples(2))
    np.save(tmp_path / "b.npy", np.zeros((2, 4), np.float32))
    with pytest.raises(DataError, match=r"b\.npy: .* all files must agree"):
        open_source(tmp_path, FREE)
    np.save(tmp_path / "b.npy", np.zeros((1, 1, 1, 3), np.float32))
    with pytest.raises(DataError, match=r"b\.npy: array has 4 axes; one sample has 1, a batch 2"):
        open_source(tmp_path, FREE)
