"""Checkpoints: what is written comes back, and other files and other runs are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from obs_onnx.passes.errors import OptionError
from obs_onnx.training.checkpoint import Checkpoint

SETTINGS = {"optimizer": "adam", "seed": 3, "rate": 0.1, "sizes": (1, 2)}


def made() -> Checkpoint:
    rng = np.random.default_rng(0)
    state = {
        "w": rng.standard_normal((3, 4)).astype(np.float32),
        "layer:w.mean": np.arange(5, dtype=np.float16),
    }
    return Checkpoint(
        SETTINGS, 12, state, {"w": np.zeros((3, 4), np.float32)}, {"loss": 0.25, "history": [[1, 2]]}
    )


def test_everything_comes_back(tmp_path: Path) -> None:
    before = made()
    before.save(tmp_path / "run.npz")
    after = Checkpoint.load(tmp_path / "run.npz", SETTINGS)
    assert (after.step, after.progress) == (12, before.progress)
    for found, wanted in ((after.state, before.state), (after.best, before.best)):
        assert set(found) == set(wanted)
        for name, array in wanted.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
    assert [path.name for path in tmp_path.iterdir()] == ["run.npz"]


def test_where_there_is_no_file_yet_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert Checkpoint.load(tmp_path / "run.npz", SETTINGS) is None


def test_a_run_with_other_settings_is_refused_with_their_names(tmp_path: Path) -> None:
    made().save(tmp_path / "run.npz")
    with pytest.raises(OptionError, match="a run with other more, rate, seed: delete it"):
        Checkpoint.load(tmp_path / "run.npz", {**SETTINGS, "seed": 4, "rate": 0.2, "more": True})


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # numpy leaves broken zips open
@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 broken"])
def test_other_files_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.npz").write_bytes(content)
    with pytest.raises(OptionError, match="is no checkpoint"):
        Checkpoint.load(tmp_path / "run.npz", SETTINGS)
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    with pytest.raises(OptionError, match="is no checkpoint"):
        Checkpoint.load(tmp_path / "other.npz", SETTINGS)


def test_the_old_file_stays_where_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    made().save(path)
    before = path.read_bytes()
    broken = made()
    broken.progress["loss"] = object()
    with pytest.raises(TypeError):
        broken.save(path)
    assert path.read_bytes() == before
    with pytest.raises(OptionError, match="cannot write"):
        made().save(tmp_path / "no" / "run.npz")
