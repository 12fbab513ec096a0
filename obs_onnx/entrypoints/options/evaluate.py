"""The options of :func:`obs_onnx.entrypoints.evaluate.evaluate` on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from obs_onnx.data.options import FixedInputs, LabelName
from obs_onnx.evaluation.measures.options import MeasureOptions
from obs_onnx.option import Options, about, option
from obs_onnx.pruning.options import MeasuredAt, Shown
from obs_onnx.runtimes.options import RuntimeOptions

if TYPE_CHECKING:
    from obs_onnx.io.onnx_file import ModelLike
    from obs_onnx.runtimes import Session

__all__ = ["EvaluateOptions"]


@dataclass(frozen=True)
class Places(Options, title="Data"):
    """What is measured on."""

    data: object = field(metadata=about("Evaluation data.", metavar="SRC", form="data", common=2))


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(
    Places, LabelName, FixedInputs, MeasuredAt, MeasureOptions, RuntimeOptions, Shown, title="Data"
):
    """Everything that an evaluation can be told."""

    against: ModelLike | bytes | Session | None = option(
        None,
        help="Reference model for output error and agreement.",
        metavar="MODEL2",
        form="model",
        common=4,
    )
    labels: str | None = option(
        None,
        help="Name of the labels in the data.",
        otherwise="labels, if there are any",
        metavar="KEY",
        common=3,
        former=("labels_key",),
    )
    batch_size: int = option(
        32, help="Samples per run, where the model's batch is free.", least=1, metavar="N"
    )
