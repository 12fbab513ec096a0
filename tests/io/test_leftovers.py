"""What a killed run leaves is finished or removed by the next one that writes beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from written_files import listed, write

from obs_onnx.io import leftovers
from obs_onnx.io.leftovers import MOVES, NEW, make_scratch, note_moves


def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left(folder: Path, names: Sequence[str], *, noted: bool, process: int | None = None) -> Path:
    """What a process leaves that was killed with its files complete."""
    made = make_scratch(folder)
    for name in names:
        (made / NEW / name).write_text("new")
    if noted:
        note_moves(made, names)
    process = dead() if process is None else process
    return made.rename(made.with_name(made.name.replace(f"-{os.getpid()}-", f"-{process}-")))


def test_of_a_dead_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    left(tmp_path, ["a", "b"], noted=False)
    left(tmp_path, ["a", "b"], noted=True)  # complete, but none was moved
    write(tmp_path, "c")
    assert listed(tmp_path) == {"a": "old", "c": "new"}


@pytest.mark.parametrize("moved", [["a"], ["b"], ["a", "b"]])
def test_moves_that_have_begun_are_finished(tmp_path: Path, moved: Sequence[str]) -> None:
    (tmp_path / "a").write_text("old")
    scratch = left(tmp_path, ["a", "b", "c"], noted=True)
    for name in moved:
        os.replace(scratch / NEW / name, tmp_path / name)
    write(tmp_path, "other")
    assert listed(tmp_path) == {"a": "new", "b": "new", "c": "new", "other": "new"}


def test_nothing_is_finished_over_what_was_changed_since(tmp_path: Path) -> None:
    scratch = left(tmp_path, ["a", "b"], noted=True)
    os.replace(scratch / NEW / "a", tmp_path / "a")
    (tmp_path / "b").write_text("mine")
    write(tmp_path, "other")
    assert listed(tmp_path) == {"a": "new", "b": "mine", "other": "new"}


def test_a_broken_note_is_no_note(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"../a": null, "b": null}'):
        (left(tmp_path, ["b"], noted=False) / MOVES).write_text(text)
    write(tmp_path, "c")
    assert listed(tmp_path) == {"c": "new"}


def test_of_others_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = left(tmp_path, ["a"], noted=False, process=os.getppid())
    mine = make_scratch(tmp_path)
    monkeypatch.setattr(leftovers.platform, "node", lambda: "elsewhere")
    far = left(tmp_path, ["a"], noted=False)
    monkeypatch.undo()
    (tmp_path / ".obs-onnx-notes").mkdir()
    (tmp_path / ".obs-onnx-host-1-file").write_text("mine")
    target = tmp_path / "folder"
    target.mkdir()
    link = tmp_path / far.name.replace("elsewhere", leftovers._host())
    link.symlink_to(target)
    before = set(tmp_path.iterdir())
    write(tmp_path, "c")
    assert set(tmp_path.iterdir()) == before | {tmp_path / "c"}
    assert {alive, mine, far} < before


def test_a_number_that_a_new_process_got_is_dead(tmp_path: Path) -> None:
    scratch = left(tmp_path, ["a"], noted=False, process=os.getpid())
    os.utime(scratch, (0, 0))
    write(tmp_path, "c")
    assert listed(tmp_path) == {"c": "new"}
