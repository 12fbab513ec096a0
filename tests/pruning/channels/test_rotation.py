"""Whole runs in which streams are rotated before they are cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from channel_graphs import node
from rotations import stream

from obs_onnx import prune, replay
from obs_onnx.passes.errors import DataError


@pytest.fixture
def narrow() -> onnx.ModelProto:
    """A stream whose few directions are no channels."""
    rng, wide = np.random.default_rng(0), 32
    low = rng.standard_normal((4, wide)) @ np.diag(np.geomspace(1, 1e-2, wide))
    mixed = np.linalg.qr(rng.standard_normal((wide, wide)))[0]
    more = {
        "w": low @ mixed, "b": np.zeros(wide), "s": rng.uniform(0.5, 2, wide), "t": np.zeros(wide),
        "v": rng.standard_normal((wide, 3)),
    }  # fmt: skip
    return stream(node("LayerNormalization", "h s t", "z", axis=-1), **more)


def test_rotated_cut_and_not_replayed(narrow: onnx.ModelProto, tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((256, 5, 4)).astype(np.float32)
    errors = {}
    for rotate in (True, False):
        out = tmp_path / f"{rotate}.onnx"
        found = prune(
            narrow, out, calib={"x": x}, targets=["macs=0.5"], rotate=rotate, latency=False, effort="quick"
        )
        errors[rotate] = found.report.output_error
        assert any("rotated to principal axes" in note for note in found.report.notes) == rotate
    assert errors[True] < errors[False]
    replay(narrow, keep=tmp_path / "False.keep.json", output=tmp_path / "again.onnx", calib={"x": x})
    with pytest.raises(DataError, match="rotated to other axes"):
        replay(narrow, keep=tmp_path / "True.keep.json", output=tmp_path / "no.onnx", calib={"x": x})
