"""Files that appear together or not at all, whatever happens meanwhile; see :mod:`obs_onnx.io.leftovers`.

New files are written into a folder beside their places, and moved in the end. Devices and pipes are
written to, never replaced.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from obs_onnx.io.leftovers import NEW, OLD, make_scratch, note_moves, scratch_name
from obs_onnx.io.streams import is_stream, write_stream
from obs_onnx.passes.errors import OptionError

__all__ = ["Together", "check_writable", "journal", "noted", "part_of", "together", "write_text"]

_JOURNAL: ContextVar[dict[str, None] | None] = ContextVar("journal", default=None)


@contextmanager
def journal() -> Iterator[Collection[str]]:
    """Everything that is written in the block, as it was asked for, in order; complete at every moment."""
    written: dict[str, None] = {}
    token = _JOURNAL.set(written)
    try:
        yield written.keys()
    finally:
        _JOURNAL.reset(token)


def noted() -> list[str]:
    """What the journal holds so far; nothing where none is kept."""
    return list(_JOURNAL.get() or ())


def check_writable(path: str | os.PathLike[str]) -> None:
    """Fail now rather than after hours if ``path`` cannot be written; nothing is touched.

    Raises:
        OptionError: its folder does not exist or is read-only, it is a folder itself, a block device or a
            socket, it is write-protected, or its name is none.
    """
    if obstacle := _obstacle(os.fspath(path)):
        raise OptionError(f"cannot write {path}: {obstacle}")


def _obstacle(path: str) -> str | None:
    """What is in the way of writing a file."""
    if not path or "\0" in path:
        return "a name of a file is not empty and holds no zero bytes"
    if is_stream(path):
        return None if os.access(path, os.W_OK) else "permission denied"
    target = Path(os.path.realpath(path))
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            mode = target.stat().st_mode
            if stat.S_ISDIR(mode):
                return "it is a folder"
            if not stat.S_ISREG(mode):
                return "it is no file, pipe or character device"
            if not os.access(target, os.W_OK):
                return "permission denied"
        if path.endswith(os.sep) or not target.parent.is_dir():
            return "its folder does not exist"
        with suppress(FileNotFoundError):  # the name that the new file has before it is moved
            (target.parent / scratch_name(8 * "x") / NEW / target.name).stat()
    except OSError as error:
        return error.strerror or str(error)
    return None if os.access(target.parent, os.W_OK) else "permission denied"


@contextmanager
def together(noted: bool = True) -> Iterator[Together]:
    """Files that are moved to their places at the end of the block, all of them or none.

    Args:
        noted: in the journal.

    Raises:
        OptionError: one of them cannot be written; everything is as it was before.
    """
    files = Together(noted)
    try:
        yield files
        files.move()
    except OSError as error:
        raise OptionError(f"cannot write {files.last}: {error.strerror or error}") from error
    finally:
        files.clear()


@contextmanager
def part_of(files: Together | None) -> Iterator[Together]:
    """``files``, or where there are none files of their own, which are moved at the end of the block."""
    if files is not None:
        yield files
        return
    with together() as own:
        yield own


class Together:
    """Files and folders that are not yet in their places.

    Whatever lies beside a new file is moved with it. What was in a place keeps a second name until all are
    moved, and is moved back if that fails.

    Args:
        noted: in the journal, once they are in their places.

    Attributes:
        last: the place asked for last, as it was given, for messages.
    """

    def __init__(self, noted: bool = True) -> None:
        self._noted = noted
        self.last = "the files"
        self._scratch: dict[Path, Path] = {}
        self._places: dict[Path, str] = {}
        self._streams: list[tuple[Path, str]] = []

    def new(self, path: str | os.PathLike[str]) -> Path:
        """Where to write, or to make the folder, that will be ``path``; its last part is that of the place.

        Raises:
            OSError: nothing can be written there.
        """
        self.last = os.fspath(path)
        if is_stream(path):
            made = Path(tempfile.mkdtemp(prefix="obs-onnx-"))
            self._streams.append((made / Path(path).name, self.last))
            return self._streams[-1][0]
        target = Path(os.path.realpath(path))
        if target.parent not in self._scratch:
            self._scratch[target.parent] = make_scratch(target.parent)
        self._places[target] = self.last
        return self._scratch[target.parent] / NEW / target.name

    def move(self) -> None:
        """Move everything to its place, those asked for first at last.

        Raises:
            OSError: something cannot be moved; everything is as it was before.
        """
        moves = self._moves()
        for new, target in moves:
            self.last = str(target)
            _prepare(new, target)
        for folder, scratch in self._scratch.items():
            note_moves(scratch, [target.name for _, target in moves if target.parent == folder])
        try:
            for new, target in moves:
                self.last = str(target)
                os.replace(new, target)
            for source, stream in self._streams:
                self.last = stream
                write_stream(stream, source)
        except BaseException:
            for new, target in reversed(moves):
                with suppress(OSError):
                    _restore(new, target)
            raise
        if self._noted and (written := _JOURNAL.get()) is not None:
            names = [self._places.get(target, str(target)) for _, target in reversed(moves)]
            written.update(dict.fromkeys((*names, *(stream for _, stream in self._streams))))
        for folder in self._scratch:
            with suppress(OSError):
                _sync(folder)

    def clear(self) -> None:
        """Remove what was not moved, and the second names of what was replaced."""
        for scratch in (*self._scratch.values(), *(source.parent for source, _ in self._streams)):
            shutil.rmtree(scratch, ignore_errors=True)
        self._scratch, self._streams = {}, []

    def _moves(self) -> list[tuple[Path, Path]]:
        """(new, place) of all that was written; first what was not asked for and lies beside something."""
        found = [
            (new, folder / new.name)
            for folder, scratch in self._scratch.items()
            for new in sorted((scratch / NEW).iterdir())
        ]
        asked = {target: number for number, target in enumerate(self._places)}
        return sorted(found, key=lambda move: -asked.get(move[1], len(asked)))


def _prepare(new: Path, target: Path) -> None:
    """See that ``new`` is on the disk, and keep what is in its place under a second name."""
    for path in (new, *new.rglob("*")):
        _sync(path)
    old = _old(new)
    if target.is_dir():
        old.mkdir()  # an empty one, or it cannot be replaced
    if target.is_dir() or not target.exists():
        return
    if not target.is_file():
        raise OSError("it is no file any more")
    shutil.copymode(target, new)
    try:
        os.link(target, old)
    except OSError:  # no such thing in this file system, or not allowed
        shutil.copy2(target, old)


def _restore(new: Path, target: Path) -> None:
    """Undo a move, if it was done; of two files one is in the place at every moment."""
    old = _old(new)
    if new.exists():
        return
    if target.is_file() and old.exists():
        with suppress(OSError):
            os.link(target, new)
    else:
        os.replace(target, new)
    if old.exists():
        os.replace(old, target)


def _old(new: Path) -> Path:
    return new.parent.parent / OLD / new.name


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # folders cannot be opened there
    number = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_text(path: str | os.PathLike[str], text: str, files: Together | None = None) -> None:
    """Write UTF-8 ``text``.

    Args:
        path: where; devices and pipes are written to.
        text: what.
        files: that it appears together with.

    Raises:
        OptionError: the file cannot be written.
    """
    with part_of(files) as own:
        own.new(path).write_text(text, encoding="utf-8")
