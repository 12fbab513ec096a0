"""Files appear together or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from written_files import listed, write

from obs_onnx.io.atomic_files import check_writable, together, write_text
from obs_onnx.io.json_file import write_json
from obs_onnx.io.leftovers import NEW, stamp
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


def test_files_take_their_places_in_the_end(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(0o600)
    (tmp_path / "sub").mkdir()
    with together() as files:
        new = files.new(tmp_path / "a")
        new.write_text("new")
        new.with_name("a.data").write_text("beside")
        files.new(tmp_path / "sub" / "b").write_text("b")
        made = files.new(tmp_path / "sub" / "folder")
        made.mkdir()
        (made / "c").write_text("c")
        assert (tmp_path / "a").read_text() == "old"
        assert not (tmp_path / "a.data").exists()
    inside = {"sub": "", "sub/b": "b", "sub/folder": "", "sub/folder/c": "c"}
    assert listed(tmp_path) == {"a": "new", "a.data": "beside", **inside}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_a_failure_before_the_end_leaves_everything_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")

    def fails() -> None:
        with together() as files:
            files.new(tmp_path / "a").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert listed(tmp_path) == {"a": "old"}


@pytest.mark.parametrize("failing", [0, 1, 2, 3])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_between_two_moves_takes_the_first_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, error: BaseException
) -> None:
    (tmp_path / "a").write_text("old a")
    (tmp_path / "empty").mkdir()
    before, links = listed(tmp_path), stamp(tmp_path / "a")
    move, count = os.replace, [0]

    def fails(source: Path, target: Path) -> None:
        if target.parent == tmp_path and source.parent.name == NEW:
            count[0] += 1
            if count[0] == failing + 1:
                raise error
        move(source, target)

    monkeypatch.setattr(os, "replace", fails)
    wanted = OptionError if isinstance(error, OSError) else KeyboardInterrupt

    def write_all() -> None:
        with together() as files:
            for name in ("a", "b", "c"):
                files.new(tmp_path / name).write_text("new")
            files.new(tmp_path / "empty").mkdir()

    with pytest.raises(wanted):
        write_all()
    assert count == [failing + 1]
    assert listed(tmp_path) == before
    assert stamp(tmp_path / "a") == links


def test_a_link_stays_and_further_names_of_a_file_keep_what_they_had(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    os.link(tmp_path / "real", tmp_path / "other")
    (tmp_path / "dangling").symlink_to("made")
    write(tmp_path, "link", "dangling")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "dangling").is_symlink()
    assert listed(tmp_path) == {
        "dangling": "new",
        "link": "new",
        "made": "new",
        "other": "old",
        "real": "new",
    }


def test_file_systems_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", fails)
    (tmp_path / "a").write_text("old")
    write(tmp_path, "a", "b")
    assert listed(tmp_path) == {"a": "new", "b": "new"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing/a", "its folder does not exist"),
        ("file/a", "its folder does not exist"),
        ("folder", "it is a folder"),
        ("folder/..", "it is a folder"),
        ("new/", "its folder does not exist"),
        ("", "not empty"),
        ("a\0b", "no zero bytes"),
        ("n" * 256, "name too long"),
        ("n/" * 2500, "name too long"),
        ("loop", "symbolic links"),
        ("socket", "no file, pipe or character device"),
    ],
)
def test_what_cannot_be_written_is_told_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    import socket

    monkeypatch.chdir(tmp_path)
    Path("file").write_text("old")
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        before = sorted(tmp_path.iterdir())
        with pytest.raises(OptionError, match=f"^(?i:cannot write .*{words})"):
            check_writable(name)
        assert sorted(tmp_path.iterdir()) == before


def test_places_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "a")
    with pytest.raises(OptionError, match="permission denied"):
        check_writable(tmp_path / "a")
    check_writable(tmp_path / "b")


def test_a_failure_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"^cannot write .*missing/a.txt: No such file or directory$"):
        write_text(tmp_path / "missing" / "a.txt", "text")
