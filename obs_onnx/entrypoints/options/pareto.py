"""The options of :func:`obs_onnx.entrypoints.pareto.pareto`."""

from __future__ import annotations

import os
from dataclasses import dataclass

from obs_onnx.allocation.targets import LATENCY, TARGETS, TRADED, costs
from obs_onnx.option import Options, option
from obs_onnx.passes.errors import OptionError, named
from obs_onnx.pruning.options import SearchOptions

__all__ = ["MOST_POINTS", "ParetoOptions"]

MOST_POINTS = 99


@dataclass(frozen=True)
class Folder(Options, title="Output"):
    """Where the result goes."""

    output: str | os.PathLike[str] | None = option(
        None,
        help="Folder to make.",
        otherwise="none; on the command line <stem>.pareto",
        metavar="FOLDER",
        form="new folder",
        flags="-o --output",
        former=("output_folder",),
        common=1,
    )


@dataclass(frozen=True, kw_only=True)
class ParetoOptions(Folder, SearchOptions, title="Frontier"):
    """Everything that a frontier can be told.

    Raises:
        OptionError: a value that its option does not allow, or a cost that is not measured.
    """

    points: int = option(
        12,
        help="Models wanted.",
        more="Limits on the cost are spaced in equal ratios; half as many more are tried where the frontier "
        "has gaps.",
        least=1,
        most=MOST_POINTS,
        metavar="N",
        common=6,
    )
    cost: str = option(
        LATENCY.name,
        help="What is to become less.",
        choices=tuple(name for name, one in costs().items() if one.figures),
        common=5,
    )
    least: float = option(
        0.2,
        help="Share of the dense model's cost, where the frontier ends.",
        above=0,
        below=1,
        metavar="SHARE",
        common=6,
    )
    by: str = option(
        "auto",
        help="What is traded for the cost; auto: accuracy or metric if data for it is given, else the error.",
        choices=("auto", *TRADED),
        common=5,
    )
    seconds: float = option(1.0, help="Timed at last, per model, all in turn.", above=0)
    plot: bool | None = option(None, help="Draw pareto.svg.", otherwise="if matplotlib is there")

    def __post_init__(self) -> None:
        super().__post_init__()
        if TARGETS[self.cost].timed and not self.latency:
            raise OptionError(f"{named('cost', self.cost)} has to be timed: give another cost")
