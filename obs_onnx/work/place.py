"""The folder of finished pieces: what lies where in it, and whether a run may use it."""

from __future__ import annotations

import os
from pathlib import Path

from obs_onnx.passes.errors import OptionError, named

__all__ = ["ABOUT", "PIECES", "README", "check_place"]

README, ABOUT, PIECES = "README.txt", "run.json", "pieces"


def check_place(folder: str | os.PathLike[str] | None, resume: bool) -> None:
    """Fail before anything costly starts if pieces cannot be kept in a folder.

    Args:
        folder: to keep them in; None for nowhere.
        resume: go on from those that it holds.

    Raises:
        OptionError: it cannot be written, it holds something else, or pieces of an earlier run that is not to
            be resumed.
    """
    if folder is None:
        return
    try:
        place = Path(os.path.realpath(folder))
        held = {entry.name for entry in os.scandir(place)} if place.exists() else set()
        pieces = PIECES in held and any((place / PIECES).iterdir())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OptionError(f"pieces cannot be kept in {folder}: {reason}") from error
    if held and ABOUT not in held and not pieces:
        raise OptionError(f"{folder} holds something else than pieces of a run: choose another folder")
    if pieces and not resume:
        raise OptionError(
            f"{folder} holds pieces of an earlier run: go on from them with {named('resume')}, "
            "delete the folder, or choose another one"
        )
    if not place.exists() and not place.parent.is_dir():
        raise OptionError(f"the folder around {folder} does not exist: create it or choose another place")
    if not os.access(place if place.exists() else place.parent, os.W_OK):
        raise OptionError(f"pieces cannot be kept in {folder}: permission denied")
