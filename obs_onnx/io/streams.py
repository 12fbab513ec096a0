"""Places that are written to and never replaced: character devices, pipes, and what is open as output."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["is_stream", "write_stream"]


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a character device, a pipe, or what standard output or error go to."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return False
    if stat.S_ISDIR(found.st_mode):
        return False
    return stat.S_ISCHR(found.st_mode) or stat.S_ISFIFO(found.st_mode) or _standard(found) is not None


def write_stream(path: str | os.PathLike[str], source: Path) -> None:
    """Write the bytes of the file ``source`` to a stream, behind what is written there already.

    Raises:
        OSError: it cannot be written to, or is a pipe that nobody reads from.
    """
    standard = _standard(os.stat(path))
    if standard is not None:
        (sys.stdout, sys.stderr)[standard - 1].flush()
        number = os.dup(standard)
    else:
        number = _opened(path)
    with os.fdopen(number, "wb") as file, source.open("rb") as data:
        shutil.copyfileobj(data, file)


def _opened(path: str | os.PathLike[str]) -> int:
    try:
        number = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "nobody reads from it") from error
        raise
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(number, True)
    return number


def _standard(found: os.stat_result) -> int | None:
    """The number under which a file is open as standard output or error."""
    for number in (1, 2):
        with suppress(OSError):
            if os.path.samestat(os.fstat(number), found):
                return number
    return None
