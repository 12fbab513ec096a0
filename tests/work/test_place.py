"""Folders that pieces may be kept in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from obs_onnx.passes.errors import OptionError
from obs_onnx.work.place import ABOUT, PIECES, check_place


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A folder with a piece."""
    (tmp_path / "w" / PIECES).mkdir(parents=True)
    (tmp_path / "w" / ABOUT).write_text("{}")
    (tmp_path / "w" / PIECES / "a.npz").write_bytes(b"")
    return tmp_path / "w"


@pytest.mark.parametrize("resume", [False, True])
def test_a_new_or_empty_folder_is_right(tmp_path: Path, resume: bool) -> None:
    check_place(None, resume)
    check_place(tmp_path, resume)
    check_place(tmp_path / "new", resume)
    assert not (tmp_path / "new").exists()


def test_pieces_are_gone_on_from_when_that_is_asked_for_only(used: Path) -> None:
    check_place(used, True)
    with pytest.raises(OptionError, match="holds pieces of an earlier run: go on from them with resume"):
        check_place(used, False)
    (used / PIECES / "a.npz").unlink()
    check_place(used, False)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(OptionError, match="holds something else than pieces of a run"):
        check_place(tmp_path, resume)


def test_what_is_no_folder_or_has_none_around_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OptionError, match=r"pieces cannot be kept in .*file: Not a directory"):
        check_place(tmp_path / "file", False)
    with pytest.raises(OptionError, match=r"the folder around .* does not exist"):
        check_place(tmp_path / "a" / "b", False)
    with pytest.raises(OptionError, match="pieces cannot be kept"):
        check_place("a\0b", False)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(OptionError, match="permission denied"):
        check_place(tmp_path / "w", False)
