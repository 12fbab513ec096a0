"""The folder in which a run keeps what it has finished, and what tells this run from others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import onnx_ir as ir

from obs_onnx.data.sources import Batch, Source
from obs_onnx.option import Options, asked, options_of
from obs_onnx.pruning.calibrated import Calibrated
from obs_onnx.pruning.inputs import Inputs
from obs_onnx.runtimes import Runtime
from obs_onnx.work.digest import digest_of
from obs_onnx.work.options import WorkOptions
from obs_onnx.work.work_folder import About, Work, open_work

__all__ = ["continued", "work_of"]

_CONTENT = ("model", "data")  # forms of options whose content counts, wherever it lies
_PLACES = ("file", "new model", "new folder")


def continued(inputs: Inputs, calibrated: Calibrated, options: WorkOptions, command: str) -> Calibrated:
    """What a search starts from, with the pieces that an earlier run has finished.

    The memory that the first run may use is that of every further one: it decides how data is cut.

    Args:
        inputs: the model as it came in.
        calibrated: what is measured, without such pieces.
        options: of the run.
        command: that runs.

    Raises:
        OptionError: pieces cannot be kept where the options say, or are of another run.
    """
    data, budget = calibrated.data, calibrated.budget
    sources = [data.fit, data.held_out, *(() if data.labelled is None else (data.labelled,))]
    models = [inputs.original, calibrated.dense.model]
    work = work_of(options, command, models, sources, inputs.runtime)
    memory = work.stage("memory").one(int, "bytes", lambda: budget.memory)
    stopwatch = calibrated.stopwatch
    return replace(
        calibrated,
        budget=replace(budget, memory=memory),
        stopwatch=None if stopwatch is None else replace(stopwatch, work=work),
        work=work,
    )


def work_of(
    options: WorkOptions,
    command: str,
    models: Iterable[ir.Model],
    sources: Iterable[Source],
    runtime: Runtime,
) -> Work:
    """Where the pieces of a run are kept, if its options name a folder.

    Args:
        options: of the run.
        command: that runs.
        models: as they come in, and as they are measured.
        sources: of data.
        runtime: where models are measured.

    Raises:
        OptionError: pieces cannot be kept there, or are of another run.
    """

    def about() -> About:
        versions = {"obs-onnx": version("obs-onnx"), "numpy": np.__version__}
        ran = {name: str(value) for name, value in runtime.environment().items()}
        return {
            "command": command,
            "model": digest_of(*models),
            "calibration data": digest_of(_fed(sources)),
            "option": _options(options),
            "program version": {**versions, **{f"runtime {name}": value for name, value in ran.items()}},
        }

    return open_work(options.work, about, options.resume)


def _options(options: Options) -> dict[str, object]:
    """Options that decide what is computed; data and models count by what is in them."""
    left_out = {one.name for one in options_of(type(options)) if one.form in (*_CONTENT, *_PLACES)}
    return {name: value for name, value in asked(options).items() if name not in left_out}


def _fed(sources: Iterable[Source]) -> Iterator[Iterator[Batch]]:
    """All feeds and labels, as models get them."""
    return (source.batches() for source in sources)
