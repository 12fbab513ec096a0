"""Files appear together or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from obs_onnx.io import leftovers
from obs_onnx.io.atomic_files import check_writable, together, write_text
from obs_onnx.io.json_file import write_json
from obs_onnx.io.leftovers import MOVES, NEW, make_scratch, note_moves, stamp
from obs_onnx.passes.errors import OptionError

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="devices and pipes")


def listed(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def write(folder: Path, *names: str) -> None:
    with together() as files:
        for name in names:
            files.new(folder / name).write_text("new")


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


@POSIX
class TestStreams:
    def test_a_device_stays_one(self, tmp_path: Path) -> None:
        check_writable(os.devnull)
        (tmp_path / "null").symlink_to(os.devnull)
        write_text(tmp_path / "null", "text")
        assert Path(os.devnull).is_char_device()
        assert (tmp_path / "null").is_symlink()

    def test_a_pipe_is_read_by_someone_or_refused(self, tmp_path: Path) -> None:
        pipe, got = tmp_path / "pipe", bytearray()
        os.mkfifo(pipe)
        check_writable(pipe)
        with pytest.raises(OptionError, match="nobody reads from it"):
            write_text(pipe, "text")
        number, size = os.open(pipe, os.O_RDWR), 200_000  # more than a pipe holds

        def read() -> None:
            while len(got) < size:
                got.extend(os.read(number, size))

        reader = threading.Thread(target=read)
        reader.start()
        write_text(pipe, size * "x")
        reader.join(60)
        os.close(number)
        assert got == size * b"x"
        assert pipe.is_fifo()

    def test_a_pipe_that_fails_takes_the_files_with_it(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "a").write_text("old")
        with pytest.raises(OptionError, match="pipe: nobody reads"):
            write(tmp_path, "a", "b", "pipe")
        assert (tmp_path / "a").read_text() == "old"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "pipe"]

    @pytest.mark.parametrize("place", ["/dev/stdout", "out"])
    def test_what_the_output_goes_to_gets_more(self, tmp_path: Path, place: str) -> None:
        code = (
            "from obs_onnx.io.atomic_files import *; print('first'); "
            f"check_writable({place!r}); write_text({place!r}, 'second\\n'); print('third')"
        )
        with (tmp_path / "out").open("w") as out:
            subprocess.run([sys.executable, "-c", code], cwd=tmp_path, stdout=out, check=True)
        assert listed(tmp_path) == {"out": "first\nsecond\nthird\n"}
        if place != "out":
            found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            assert found.stdout == "first\nsecond\nthird\n"


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


class TestLeftovers:
    def test_of_a_dead_process_are_removed(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("old")
        left(tmp_path, ["a", "b"], noted=False)
        left(tmp_path, ["a", "b"], noted=True)  # complete, but none was moved
        write(tmp_path, "c")
        assert listed(tmp_path) == {"a": "old", "c": "new"}

    @pytest.mark.parametrize("moved", [["a"], ["b"], ["a", "b"]])
    def test_moves_that_have_begun_are_finished(self, tmp_path: Path, moved: Sequence[str]) -> None:
        (tmp_path / "a").write_text("old")
        scratch = left(tmp_path, ["a", "b", "c"], noted=True)
        for name in moved:
            os.replace(scratch / NEW / name, tmp_path / name)
        write(tmp_path, "other")
        assert listed(tmp_path) == {"a": "new", "b": "new", "c": "new", "other": "new"}

    def test_nothing_is_finished_over_what_was_changed_since(self, tmp_path: Path) -> None:
        scratch = left(tmp_path, ["a", "b"], noted=True)
        os.replace(scratch / NEW / "a", tmp_path / "a")
        (tmp_path / "b").write_text("mine")
        write(tmp_path, "other")
        assert listed(tmp_path) == {"a": "new", "b": "mine", "other": "new"}

    def test_a_broken_note_is_no_note(self, tmp_path: Path) -> None:
        for text in ("{", "[]", '{"../a": null, "b": null}'):
            (left(tmp_path, ["b"], noted=False) / MOVES).write_text(text)
        write(tmp_path, "c")
        assert listed(tmp_path) == {"c": "new"}

    def test_of_others_are_left_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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

    def test_a_number_that_a_new_process_got_is_dead(self, tmp_path: Path) -> None:
        scratch = left(tmp_path, ["a"], noted=False, process=os.getpid())
        os.utime(scratch, (0, 0))
        write(tmp_path, "c")
        assert listed(tmp_path) == {"c": "new"}
