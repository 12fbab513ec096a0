"""The figure that labelled data gives: accuracy, mean intersection over union, or a function of the user's.

A function takes the outputs for all of the data, ``{name: array}``, and the labels, and gives one number:

    def recall(outputs, labels):
        return np.mean(outputs["scores"].argmax(1)[labels > 0] == labels[labels > 0])

Outputs are joined along their first axis, in the order of the data; where they do not fit together, there is
a list with an array for each batch. Labels are joined likewise, None where there are none. A function that
names further arguments gets them: ``inputs``, the same of the feeds. Less is better where it has an attribute
``lower_is_better`` that is true, or where the option says so.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from obs_onnx.data.feeds import Array
from obs_onnx.data.user_function import load_function
from obs_onnx.evaluation.measures.options import SEGMENTATION
from obs_onnx.passes.errors import DataError, boundary

__all__ = ["ACCURACY", "MIOU", "Collected", "Metric", "open_metric"]


@dataclass(frozen=True)
class Metric:
    """A figure of a model on data; the module says what its function is given.

    Attributes:
        name: for people and JSON.
        function: of the user's that gives it; None for one of :data:`ACCURACY` and :data:`MIOU`.
        lower_is_better: whether less is better.
        reads_inputs: whether the function wants the inputs, too.
    """

    name: str
    function: Callable[..., Any] | None = None
    lower_is_better: bool = False
    reads_inputs: bool = False

    def lost(self, dense: float, other: float) -> float:
        """How much worse another model is, in the metric's own unit."""
        return other - dense if self.lower_is_better else dense - other

    def value(self, collected: Collected) -> float:
        """What the function says.

        Raises:
            DataError: it fails, or gives no finite number.
        """
        assert self.function is not None
        more = {"inputs": collected.joined(collected.inputs)} if self.reads_inputs else {}
        labels = None if not collected.labels else np.concatenate(collected.labels)
        with boundary(f"metric {self.name} fails", DataError):
            found = float(self.function(collected.joined(collected.outputs), labels, **more))
        if not math.isfinite(found):
            raise DataError(f"metric {self.name} gives {found}: return a finite number")
        return found


ACCURACY, MIOU = Metric("accuracy"), Metric("mIoU")
"""What there is without a function of the user's."""


@dataclass
class Collected:
    """What a metric is given, batch by batch."""

    outputs: list[Mapping[str, Array]] = field(default_factory=list)
    inputs: list[Mapping[str, Array]] = field(default_factory=list)
    labels: list[NDArray[np.int64]] = field(default_factory=list)

    def add(
        self,
        outputs: Mapping[str, Array],
        labels: NDArray[np.int64] | None,
        feed: Mapping[str, Array] | None = None,
    ) -> None:
        """One batch."""
        self.outputs.append(outputs)
        if feed is not None:
            self.inputs.append(feed)
        if labels is not None:
            self.labels.append(labels)

    @staticmethod
    def joined(batches: Sequence[Mapping[str, Array]]) -> dict[str, Array | list[Array]]:
        """Arrays of all batches, joined along the first axis where they fit."""
        found: dict[str, Array | list[Array]] = {}
        for name in batches[0] if batches else ():
            arrays = [batch[name] for batch in batches]
            alike = all(one.ndim and one.shape[1:] == arrays[0].shape[1:] for one in arrays)
            found[name] = np.concatenate(arrays) if alike else arrays
        return found


def open_metric(given: str | Callable[..., Any] | None, lower_is_better: bool, task: str) -> Metric:
    """The metric that the user names as ``module:function`` or gives as a function; without one, that of a
    task.

    Raises:
        DataError: no such function.
    """
    if given is None:
        return MIOU if task == SEGMENTATION else ACCURACY
    function = load_function(given) if isinstance(given, str) else given
    name = given.rpartition(":")[2] if isinstance(given, str) else getattr(given, "__name__", "metric")
    lower = lower_is_better or bool(getattr(function, "lower_is_better", False))
    return Metric(name, function, lower, _reads(function, "inputs"))


def _reads(function: Callable[..., Any], argument: str) -> bool:
    try:
        return argument in inspect.signature(function).parameters
    except (TypeError, ValueError):  # written in C
        return False
