"""The options of :func:`obs_onnx.entrypoints.finetune.finetune`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from obs_onnx.data.options import FixedInputs, Labelled
from obs_onnx.evaluation.measures.options import TaskOption
from obs_onnx.option import Options, about, option, output_file
from obs_onnx.passes.errors import OptionError, named
from obs_onnx.pruning.options import MeasuredAt, Shown
from obs_onnx.runtimes.options import OperatorOptions
from obs_onnx.training.options import TrainingOptions

if TYPE_CHECKING:
    from obs_onnx.io.onnx_file import ModelLike

__all__ = ["FinetuneOptions"]


@dataclass(frozen=True)
class Places(Options, title="Data"):
    """What is learnt from, and where the result goes."""

    data: object = field(metadata=about("Data to learn from.", metavar="SRC", form="data", common=2))
    output: str | os.PathLike[str] | None = output_file("<stem>.finetuned.onnx")


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(
    Places,
    Labelled,
    FixedInputs,
    TaskOption,
    MeasuredAt,
    TrainingOptions,
    OperatorOptions,
    Shown,
    title="Training",
):
    """Everything that training can be told.

    Raises:
        OptionError: a value that its option does not allow, or a run to go on with that is not named.
    """

    steps: int = field(metadata=about("Updates.", least=1, metavar="N", common=5))
    labels: str | None = option(
        None,
        help="Name of the labels in the data; learnt beside a teacher, too.",
        otherwise="labels, learnt where there is no teacher",
        metavar="KEY",
        common=3,
    )
    teacher: ModelLike | None = option(
        None,
        help="Model whose outputs are learnt, usually the dense one.",
        metavar="MODEL2",
        form="model",
        common=4,
    )
    eval: object = option(
        None,
        help="Data to measure on.",
        otherwise="an eighth of the data",
        metavar="SRC",
        form="data",
        former=("held_out",),
        common=4,
    )
    batch: int = option(64, help="Samples per update, where the model's batch is free.", least=1, common=5)
    warmup: int | None = option(
        None,
        help="Steps in which the learning rate rises.",
        more="It then falls to zero along a cosine.",
        otherwise="a tenth of the steps, 100 at most",
        least=0,
        metavar="N",
    )
    momentum: float = option(0.9, help="Of sgd and foof.", least=0, below=1)
    weight_decay: float | None = option(
        None,
        help="Of weights with two axes or more.",
        otherwise="0.01 with adamw, else 0",
        least=0,
    )
    evaluations: int = option(20, help="How often the held-out loss is measured.", least=1, metavar="N")
    patience: int | None = option(
        None,
        help="Measurements without a better one before an early stop.",
        more="Most of the improvement comes while the learning rate falls.",
        otherwise="no early stop",
        least=1,
        metavar="N",
    )
    keep_zeros: bool = option(True, help="Zeros in weights of layers stay zeros.")
    fold: bool = option(
        True,
        help="Fold BatchNormalization into the weights first.",
        more="Otherwise its scale and shift are trained, with the statistics as they are.",
    )
    checkpoint: str | os.PathLike[str] | None = option(
        None, help="Save the run here.", metavar="PATH", form="file"
    )
    resume: bool = option(False, help="Go on from the checkpoint, if it exists.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume and self.checkpoint is None:
            raise OptionError(f"{named('resume')} goes on from a checkpoint: give {named('checkpoint')}, too")
