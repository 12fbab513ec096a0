"""The files of data, known without reading it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from obs_onnx.data.source_files import files_of, holds


def test_files_of_data_in_all_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.zeros((4, 3)))
    mapped = np.load("a.npy", mmap_mode="r")
    assert files_of("a.npy") == files_of(Path("a.npy")) == [Path("a.npy")]
    assert files_of(".") == [Path()]
    assert files_of("random:7") == []
    assert files_of(mapped) == files_of(mapped[:2]) == files_of({"x": mapped}) == [tmp_path / "a.npy"]
    assert files_of(np.zeros(3)) == files_of({"x": np.zeros(3)}) == files_of([{"x": mapped}][:0]) == []
    assert files_of("sub/feeds.py:make") == [Path("sub/feeds.py")]
    monkeypatch.setattr(sys, "path", ["/lib"])
    assert [path.as_posix() for path in files_of("my.feeds:make")] == [
        "my/feeds.py",
        "my/feeds/__init__.py",
        "/lib/my/feeds.py",
        "/lib/my/feeds/__init__.py",
    ]


def test_what_a_folder_of_data_holds(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "class").mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    for name in ("a.npz", "note.txt"):
        (folder / name).touch()
    os.link(folder / "a.npz", tmp_path / "hard.json")
    os.link(folder / "note.txt", tmp_path / "other.json")
    (tmp_path / "plain.npz").touch()
    held = (
        "data/a.npz",
        "data/new.npy",
        "link/a.npz",
        "data/class/1.PNG",
        "data/preprocess.json",
        "hard.json",
    )
    for name in (*held, "data/labels.csv", "data/class/../a.npz"):
        assert holds(folder, tmp_path / name), name
    for name in ("data/note.txt", "data/result.onnx", "data/r.json", "other.json", "plain.npz", "new.npz"):
        assert not holds(folder, tmp_path / name), name
