"""What tells a run from others: its model, its data as models get it, its options, and the programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version

import numpy as np
import onnx_ir as ir

from obs_onnx.data.sources import Source
from obs_onnx.option import Options, asked, options_of
from obs_onnx.work.digest import digest_of
from obs_onnx.work.options import WorkOptions
from obs_onnx.work.work_folder import About, Work, open_work

__all__ = ["work_of"]

_LEFT_OUT = ("model", "data", "file", "new model", "new folder", "cluster")
"""Forms of options that do not tell runs apart: content counts, wherever it lies, goes and is computed."""


def work_of(
    options: WorkOptions,
    command: str,
    models: Iterable[ir.Model],
    sources: Iterable[Source],
    environment: Mapping[str, object],
) -> Work:
    """Where the pieces of a run are kept, if its options name a folder.

    Args:
        options: of the run.
        command: that runs.
        models: as they come in, and as they are measured.
        sources: of data.
        environment: name and version of the runtime, and what else of it counts.

    Raises:
        OptionError: pieces cannot be kept there, or are of another run.
    """

    def about() -> About:
        programs = {"obs-onnx": version("obs-onnx"), "numpy": np.__version__}
        return {
            "command": command,
            "model": digest_of(*models),
            "calibration data": digest_of(source.batches() for source in sources),
            "option": _told(options),
            "program": {**programs, **{name: str(value) for name, value in environment.items()}},
        }

    return open_work(options.work, about, options.resume)


def _told(options: Options) -> dict[str, object]:
    """Options that decide what is computed, beside models and data."""
    left_out = {one.name for one in options_of(type(options)) if one.form in _LEFT_OUT}
    return {name: value for name, value in asked(options).items() if name not in left_out}
