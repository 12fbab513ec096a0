"""What a model is for and how its outputs are measured, as options.

======================  ==============================================================================
task                    measured, beside the error of each part (:mod:`obs_onnx.evaluation.measures.parts`)
======================  ==============================================================================
classification          divergence of the class probabilities, same class, accuracy
segmentation            the same for each position, and the mean intersection over union (mIoU)
language                the same for each token, and perplexity
embedding               cosine of the vectors
detection, regression   nothing: boxes, scores and values each have their error
======================  ==============================================================================

``auto`` goes by what :mod:`obs_onnx.evaluation.measures.class_scores` finds, and claims nothing where it
finds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from obs_onnx.option import Options, option
from obs_onnx.passes.errors import OptionError, named

__all__ = [
    "AUTO",
    "CLASSIFICATION",
    "EMBEDDING",
    "LANGUAGE",
    "SCORED",
    "SEGMENTATION",
    "TASKS",
    "MeasureOptions",
    "TaskOption",
]

AUTO, CLASSIFICATION, SEGMENTATION = "auto", "classification", "segmentation"
EMBEDDING, LANGUAGE = "embedding", "language"

SCORED = (CLASSIFICATION, SEGMENTATION, LANGUAGE)
"""Tasks with class scores."""

TASKS = (AUTO, CLASSIFICATION, SEGMENTATION, "detection", "regression", EMBEDDING, LANGUAGE)
"""All there are."""


@dataclass(frozen=True, kw_only=True)
class TaskOption(Options, title="Measuring"):
    """What a model is for."""

    task: str = option(
        AUTO,
        help="What the outputs are, and so what is measured of them.",
        more="auto: class scores where a softmax or labels say so, else numbers with an error.",
        choices=TASKS,
    )


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(TaskOption, title="Measuring"):
    """How outputs are measured.

    Raises:
        OptionError: a value that its option does not allow, or a direction without a metric.
    """

    weight: Mapping[str, float] | None = option(
        None,
        help="Factor of the error of a part of an output: y, y[4:84] as reports name it, or its node.",
        more="A part of weight 0 is not measured.",
        metavar="NAME=VALUE",
    )
    metric: str | Callable[..., Any] | None = option(
        None,
        help="Own figure of quality, MODULE:FUNCTION of the outputs and labels of all data.",
        more=f"{named('eval')} says on which data, by default held-out calibration data. Target drop "
        "limits how much worse it gets, in its own unit. See docs/tasks.md.",
        otherwise="accuracy, or mIoU of a segmentation",
        metavar="FUNCTION",
    )
    metric_lower_is_better: bool = option(
        False,
        help=f"Less of {named('metric')} is better.",
        more="So it is, too, where the function has an attribute lower_is_better that is true.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (self.weight or {}).items():
            if value < 0:
                raise OptionError(f"{named('weight')} {name}={value:g}: give 0 or more")
        if self.metric_lower_is_better and self.metric is None:
            raise OptionError(
                f"{named('metric_lower_is_better')} is about a metric: give {named('metric')}, too"
            )
