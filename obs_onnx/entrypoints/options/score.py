"""The options of :func:`obs_onnx.entrypoints.score.score`."""

from __future__ import annotations

from dataclasses import dataclass

from obs_onnx.criteria.channels.registry import CRITERIA
from obs_onnx.data.options import DataOptions
from obs_onnx.evaluation.measures.options import TaskOption
from obs_onnx.option import option
from obs_onnx.pruning.options import ChangingCaches, Damped, MeasuredAt, Memory, Protected, Regularized, Shown
from obs_onnx.runtimes.options import RuntimeOptions
from obs_onnx.work.options import WorkOptions

__all__ = ["ScoreOptions", "ScorerOptions"]


@dataclass(frozen=True, kw_only=True)
class ScorerOptions(
    DataOptions,
    TaskOption,
    MeasuredAt,
    Protected,
    ChangingCaches,
    Damped,
    Memory,
    RuntimeOptions,
    WorkOptions,
    Shown,
    title="Data",
):
    """What every criterion is measured with."""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(ScorerOptions, Regularized, title="Choice"):
    """Everything that scores can be told."""

    criterion: str = option(
        "taylor",
        help=f"What scores the channels: {', '.join(CRITERIA)}.",
        metavar="NAME",
        common=7,
    )
    oracle: bool = option(
        False,
        help="Also remove each channel alone, and compare.",
        more="Without compensation; the loss is measured on 2,048 samples at most.",
        common=8,
    )
