"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from obs_onnx.passes.errors import OptionError

__all__ = ["check_writable", "replacing", "replacing_folder", "write_text"]


def check_writable(path: str | os.PathLike[str]) -> None:
    """Fail now rather than after hours if ``path`` cannot be written; nothing is touched.

    Raises:
        OptionError: its folder does not exist or is read-only, or it is a folder itself.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise OptionError(f"cannot write {path}: it is a folder")
    if not target.parent.is_dir():
        raise OptionError(f"cannot write {path}: its folder does not exist")
    if not os.access(target if target.exists() and not target.is_file() else target.parent, os.W_OK):
        raise OptionError(f"cannot write {path}: permission denied")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; what is there takes the place of ``path`` in the end.

    Where the body fails, ``path`` stays as it was and nothing is left behind.

    Raises:
        OSError: it cannot be moved into place.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside ``folder`` to fill, which takes its name in the end; see :func:`replacing`.

    Raises:
        OSError: it cannot be made or moved into place.
    """
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        new = Path(scratch, "new")
        new.mkdir()
        yield new
        os.replace(new, folder)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 ``text`` beside ``path`` and move it into place; devices and pipes are written directly.

    Raises:
        OptionError: the file cannot be written.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file() and not target.is_dir():
            target.write_text(text, encoding="utf-8")
            return
        with replacing(target) as new:
            new.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OptionError(f"cannot write {path}: {error.strerror or error}") from error
