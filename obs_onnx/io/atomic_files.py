"""Text and JSON files that are written whole or not at all, and the size of files once compressed."""

from __future__ import annotations

import os
from pathlib import Path

from obs_onnx.passes.errors import OptionError

__all__ = ["check_writable", "write_text"]


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
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OptionError(f"cannot write {path}: {error.strerror or error}") from error
