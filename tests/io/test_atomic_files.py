"""Files that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from obs_onnx.io.atomic_files import check_writable, replacing, replacing_folder, write_text
from obs_onnx.io.json_file import write_json
from obs_onnx.passes.errors import OptionError


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    target.write_text("old")
    with pytest.raises(TypeError):
        write_json(target, {"bad": object()})
    assert target.read_text() == "old"
    write_text(target, "new")
    assert target.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    link.symlink_to(real)
    write_text(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    write_text("/dev/null", "x")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("name", ["missing/out.json", "."])
def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionError, match="cannot write"):
        write_text(tmp_path / name, "x")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_in_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with replacing(target) as new:
        new.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def fail(path: Path) -> None:
    path.write_text("half")
    raise ZeroDivisionError


def test_a_failure_leaves_everything_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(target) as new:
        fail(new)
    with pytest.raises(ZeroDivisionError), replacing_folder(tmp_path / "folder") as new:
        fail(new / "b.txt")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_takes_its_name_in_the_end(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with replacing_folder(target) as new:
        (new / "a.txt").write_text("text")
        assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (target / "a.txt").read_text() == "text"


def test_text_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot write"):
        write_text(tmp_path / "missing" / "a.txt", "text")
    with pytest.raises(OptionError, match="its folder does not exist"):
        check_writable(tmp_path / "missing" / "a.txt")
    with pytest.raises(OptionError, match="it is a folder"):
        check_writable(tmp_path)
