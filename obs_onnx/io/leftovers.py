"""Folders in which new files wait beside their places, and what a killed run left in them.

The folder ``.obs-onnx-HOST-PROCESS-xxxxxxxx`` holds ``new/``, files under the names that they will have;
``old/``, further names of the files that they replace; and, once the files are complete, ``moves.json``:
what stood in every place before. Whoever writes into the same folder next looks for such folders of processes
that are dead. If files were being moved, the rest is moved as well; otherwise the new files go.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["MOVES", "NEW", "OLD", "make_scratch", "note_moves", "scratch_name", "stamp", "sweep"]

NEW, OLD, MOVES = "new", "old", "moves.json"

_NAME = re.compile(r"\.obs-onnx-(?P<host>.*)-(?P<process>\d+)-\w+")
_SLACK = 2.0  # seconds that the start of a process is known to
_Stamp = list[int] | None


def _host() -> str:
    return re.sub(r"[^\w.-]", "", platform.node(), flags=re.ASCII)[:64]


def scratch_name(end: str = "") -> str:
    """The name of a folder of this process."""
    return f".obs-onnx-{_host()}-{os.getpid()}-{end}"


def make_scratch(folder: Path) -> Path:
    """A new folder in ``folder`` for what will be moved there; leftovers are removed first.

    Raises:
        OSError: it cannot be made.
    """
    sweep(folder)
    made = Path(tempfile.mkdtemp(prefix=scratch_name(), dir=folder))
    (made / NEW).mkdir()
    (made / OLD).mkdir()
    return made


def stamp(path: Path) -> _Stamp:
    """What tells a file from one that takes its place; None where there is none."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return [found.st_ino, found.st_size, found.st_mtime_ns]


def note_moves(scratch: Path, names: Sequence[str]) -> None:
    """Note that the files of ``scratch`` are complete, and what they replace; a single one needs no note.

    Raises:
        OSError: it cannot be written.
    """
    if len(names) < 2:
        return
    text = json.dumps({name: stamp(scratch.parent / name) for name in names})
    unfinished = scratch / f"{MOVES}.new"
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, scratch / MOVES)


def sweep(folder: Path) -> None:
    """Finish or remove what dead processes of this machine and user left in ``folder``."""
    found: list[str] = []
    with suppress(OSError), os.scandir(folder) as entries:
        found = [entry.name for entry in entries if _is_left(entry)]
    for name in found:
        mine = folder / scratch_name(f"left{os.urandom(4).hex()}")
        try:
            os.rename(folder / name, mine)  # no other process takes it now
        except OSError:
            continue
        with suppress(OSError, ValueError, AttributeError):
            _finish(mine)
        shutil.rmtree(mine, ignore_errors=True)


def _is_left(entry: os.DirEntry[str]) -> bool:
    named = _NAME.fullmatch(entry.name)
    if named is None or named["host"] != _host() or not entry.is_dir(follow_symlinks=False):
        return False
    about = entry.stat(follow_symlinks=False)
    owned = not hasattr(os, "geteuid") or about.st_uid == os.geteuid()
    return bool(owned) and _is_dead(int(named["process"]), about.st_mtime)


def _is_dead(process: int, seen: float) -> bool:
    """Whether the process that was alive at ``seen`` (in seconds) is not any more."""
    import psutil

    try:
        found = psutil.Process(process)
        return bool(found.status() == psutil.STATUS_ZOMBIE or found.create_time() > seen + _SLACK)
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, OverflowError):
        return False


def _finish(scratch: Path) -> None:
    """Move the rest of files of which some are moved, unless something else has taken a place since."""
    before = json.loads((scratch / MOVES).read_text(encoding="utf-8"))
    if any(name != Path(name).name for name in before):
        return
    left = [name for name in before if (scratch / NEW / name).exists()]
    if len(left) < len(before) and all(stamp(scratch.parent / name) == before[name] for name in left):
        for name in left:
            os.replace(scratch / NEW / name, scratch.parent / name)
