"""Options about devices."""

from __future__ import annotations

import os
from dataclasses import dataclass

from obs_onnx.option import Options, option

__all__ = ["DeviceOptions"]


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options, title="Choice"):
    """Where the model is to run, as far as public sources tell what suits it."""

    device: str | os.PathLike[str] | None = option(
        None,
        help="Profile of a board: a name of docs/boards.md, or a .toml file.",
        more="It sets round_to, quantize and the targets ram and size where they are not given, and says "
        "what does not run there.",
        otherwise="nothing is known of it",
        metavar="NAME|FILE",
        form="data",
    )
