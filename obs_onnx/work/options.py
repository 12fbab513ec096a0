"""Options about where a run keeps what it has finished."""

from __future__ import annotations

import os
from dataclasses import dataclass

from obs_onnx.option import Options, option
from obs_onnx.passes.errors import OptionError, named

__all__ = ["WorkOptions"]


@dataclass(frozen=True, kw_only=True)
class WorkOptions(Options, title="Measuring"):
    """How a run that is stopped can go on.

    Raises:
        OptionError: there is no folder to go on from.
    """

    work: str | os.PathLike[str] | None = option(
        None,
        help="Folder that keeps every finished piece of the run, to go on from.",
        more="See docs/files.md for what it holds; it can be deleted at any time.",
        metavar="FOLDER",
        form="work folder",
        recorded=False,
    )
    resume: bool = option(
        False,
        help=f"Go on from what {named('work')} holds.",
        more="The result has the same bytes as that of a run that was never stopped.",
        recorded=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume and self.work is None:
            raise OptionError(f"{named('resume')} goes on from a folder: name it with {named('work')}")
