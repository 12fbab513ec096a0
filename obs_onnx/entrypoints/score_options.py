"""The options of :func:`obs_onnx.entrypoints.score.score`."""

from __future__ import annotations

from dataclasses import dataclass

from obs_onnx.data.options import DataOptions
from obs_onnx.option import option
from obs_onnx.pruning.options import Damped, Memory, Protected, Regularized, Shown
from obs_onnx.runtimes.options import RuntimeOptions

__all__ = ["ScoreOptions", "ScorerOptions"]


@dataclass(frozen=True, kw_only=True)
class ScorerOptions(DataOptions, Protected, Damped, Memory, RuntimeOptions, Shown, title="Data"):
    """What every criterion is measured with."""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(ScorerOptions, Regularized, title="Choice"):
    """Everything that scores can be told."""

    criterion: str = option(
        "taylor",
        help="taylor, fisher, obd, gates, oba, oba-second, oba-paper, obs, magnitude, l1, l2, mean, std, "
        "apoz, mutual-information, random or oracle.",
        metavar="NAME",
        common=7,
    )
    oracle: bool = option(
        False,
        help="Also remove each channel alone, and compare.",
        more="Without compensation; the loss is measured on 2,048 samples at most.",
        common=8,
    )
