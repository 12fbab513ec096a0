"""The options of :func:`obs_onnx.entrypoints.evaluate.evaluate` on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field

from obs_onnx.data.options import FixedInputs, LabelName
from obs_onnx.evaluation.measures.options import MeasureOptions
from obs_onnx.option import Options, about, option
from obs_onnx.pruning.options import MeasuredAt
from obs_onnx.runtimes.options import RuntimeOptions

__all__ = ["EvaluateOptions"]


@dataclass(frozen=True)
class Places(Options, title="Data"):
    """What is measured on."""

    data: object = field(metadata=about("Evaluation data.", metavar="SRC", form="data", common=2))


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(
    Places, LabelName, FixedInputs, MeasuredAt, MeasureOptions, RuntimeOptions, title="Data"
):
    """Everything that an evaluation can be told."""

    against: str | None = option(
        None,
        help="Reference model for output error and agreement.",
        metavar="MODEL2",
        form="model",
        common=4,
    )
