"""Strict JSON."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from obs_onnx.io.json_file import jsonable


def test_jsonable_takes_numpy_and_refuses_what_has_no_place() -> None:
    value = {"a": np.float32(0.5), "b": np.arange(2), 3: (np.bool_(True), float("-inf"), Path("x"))}
    assert jsonable(value) == {"a": 0.5, "b": [0, 1], "3": [True, None, "x"]}
    with pytest.raises(TypeError, match="object"):
        jsonable({"a": object()})
