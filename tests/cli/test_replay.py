"""The command replay."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from click.testing import CliRunner
from decided_nets import detector, images

from obs_onnx.cli import main


def test_command(tmp_path: Path) -> None:
    onnx.save(detector(), tmp_path / "m.onnx")
    kept = {"tensors": {name: {"0": [0, 2, 5, 6]} for name in ("w1", "b1")}}
    kept["tensors"]["w2"] = {"1": [0, 2, 5, 6]}
    (tmp_path / "k.json").write_text(json.dumps(kept))
    np.savez(tmp_path / "d.npz", x=images(3))
    arguments = ["replay", str(tmp_path / "k.json"), str(tmp_path / "m.onnx"), "-o", str(tmp_path / "s.onnx")]
    result = CliRunner().invoke(main, [*arguments, "--calib", str(tmp_path / "d.npz")])
    assert result.exit_code == 0, result.output
    assert "silenced, on the data" in result.stderr
    sizes = {t.name: tuple(t.dims) for t in onnx.load(tmp_path / "s.onnx").graph.initializer}
    assert (sizes["w1"], sizes["b1"], sizes["w2"]) == ((4, 3, 3, 3), (4,), (16, 4, 3, 3))
    (tmp_path / "k.json").write_text("[]")
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stderr.strip().endswith("is no keep.json: give the file that prune writes beside its model")
