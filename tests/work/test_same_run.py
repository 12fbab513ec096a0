"""What tells a run from others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from nets import mlp

from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.open_source import open_source
from obs_onnx.option import option
from obs_onnx.passes.errors import OptionError
from obs_onnx.work.options import WorkOptions
from obs_onnx.work.same_run import work_of
from obs_onnx.work.work_folder import Work

MODEL = ir.from_proto(mlp())
DATA = np.arange(48.0, dtype=np.float32).reshape(4, 12)


@dataclass(frozen=True, kw_only=True)
class Own(WorkOptions):
    """Options of a command."""

    rounds: int = option(1, help="How often.")
    calib: object = option(None, help="Data.", form="data")
    output: str | None = option(None, help="Result.", form="new model")


def opened(
    folder: Path, data: np.ndarray = DATA, model: ir.Model = MODEL, threads: int = 1, **options: object
) -> Work:
    source = open_source({"x": data}, [TensorSpec("x", (None, 12), np.dtype(np.float32))], batch_size=2)
    asked = Own(work=folder, resume=True, **options)
    work = work_of(asked, "prune", [model], [source], {"version": "1", "threads": threads})
    work.one(float, "a", lambda: 1.0)
    return work


def test_where_data_and_results_lie_does_not_count(tmp_path: Path) -> None:
    first = opened(tmp_path / "w", calib="a.npz", output="a.onnx")
    assert opened(tmp_path / "w", DATA.copy(), MODEL.clone(), calib="b.npz", output="b.onnx") == first
    about = json.loads((tmp_path / "w" / "run.json").read_text())
    assert about["option"] == {}
    assert about["program"]["numpy"] == np.__version__


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"rounds": 2}, r"another option \(rounds\)"),
        ({"data": DATA + 1}, "another calibration data"),
        ({"model": ir.from_proto(mlp((12, 30, 24, 5)))}, "another model"),
        ({"threads": 2}, r"another program \(threads\)"),
    ],
)
def test_what_counts_is_named(tmp_path: Path, other: dict, words: str) -> None:
    opened(tmp_path / "w")
    with pytest.raises(OptionError, match=f"w holds pieces of a run with {words}: repeat that run"):
        opened(tmp_path / "w", **other)


def test_without_a_folder_nothing_is_read() -> None:
    assert work_of(Own(), "prune", iter(()), iter(()), {}).folder is None
