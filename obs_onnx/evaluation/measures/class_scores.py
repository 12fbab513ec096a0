"""Which output holds class scores, and whether they are probabilities: one rule for everything that asks.

Numbers of shape (samples, features) may be class scores as well as angles, boxes or an embedding: the shape
decides nothing. An output of a floating-point type holds class scores along one of its axes where

* the task that was asked for says so, or
* labels say so: there is one for each row of scores, or
* a softmax (or its logarithm) along that axis gave it, by the graph, or by rows that all add up to 1 within
  0.001, :data:`MANY` of them or more, or
* the graph that was cut off behind it looks for the class along that axis
  (:func:`obs_onnx.passes.graph.logits.class_axes`), or
* whoever exported it called it ``logits``, what a softmax is taken of: along its last axis where there are
  three (tokens), else along the second.

Where only the last three say so, and an output has several rows for each sample (a class for each pixel or
token), it has to be the only one of a floating-point type: maps of attention are no classes. Caches of keys,
values and states, which language models give beside (``present.0.key``), do not count.

The scores are *probabilities* where, in the batch that was looked at, no number is negative and the numbers
of each row add up to 1. Otherwise their softmax is. They are *alone* where no other output but caches is of a
floating-point type: what compares all that a model says goes by classes only then.

The rule is asked of the dense model, and holds for every model that is compared with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from scipy.special import log_softmax

from obs_onnx.data.feeds import Array, is_float
from obs_onnx.evaluation.measures.options import AUTO, CLASSIFICATION, LANGUAGE, SCORED, SEGMENTATION
from obs_onnx.passes.graph.logits import holds_class_numbers, softmax_axis

__all__ = [
    "MANY",
    "ClassScores",
    "are_probabilities",
    "blocks",
    "classes_of",
    "find_class_numbers",
    "find_class_scores",
    "log_of_probabilities",
    "log_probabilities",
    "rows_of",
]

MANY = 8  # rows that cannot all add up to 1 by chance
_TOLERANCE = 1e-3  # of a sum of probabilities
_BLOCK = 1 << 20  # scores that are looked at at once
_LOGITS_AXIS = {3: 2}  # by the number of axes; else the second
_TINY = 1e-12  # probabilities below count as that large

Outputs = Mapping[str, Array]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class ClassScores:
    """Where a model's class scores are; see the module.

    Attributes:
        name: of the output.
        probabilities: it holds probabilities.
        alone: it is the only output of a floating-point type, but for caches.
        axis: along which the classes lie.
        single: it has one row of scores for each sample.
    """

    name: str
    probabilities: bool
    alone: bool
    axis: int = 1
    single: bool = True

    def rows(self, outputs: Outputs) -> Array:
        """(rows, C) of its scores; one channel is that of the second of two classes."""
        rows = rows_of(outputs[self.name], self.axis)
        if rows.shape[1] > 1:
            return rows
        return np.concatenate([1 - rows if self.probabilities else np.zeros_like(rows), rows], axis=1)

    def log_probabilities(self, outputs: Outputs) -> NDArray[np.float64]:
        """(rows, C) logarithms of the probabilities of the classes."""
        return log_probabilities(self.rows(outputs), self.probabilities)


def find_class_scores(
    outputs: Outputs,
    labels: Labels | None = None,
    task: str = AUTO,
    model: ir.Model | None = None,
    more: Sequence[Outputs] = (),
    axes: Mapping[str, int] | None = None,
) -> ClassScores | None:
    """The class scores of a model; None where nothing says that it gives any.

    Args:
        outputs: what it gives for a batch.
        labels: (rows,) of the same batch.
        task: what was asked for, one of :data:`obs_onnx.evaluation.measures.options.TASKS`.
        model: with these outputs, where it can be looked at.
        more: what it gives for further batches.
        axes: of outputs, along which what lies behind them looks for classes.
    """
    floats = {name: y for name, y in outputs.items() if is_float(y.dtype) and not _is_called_cache(name)}
    if task not in (AUTO, *SCORED):
        return None
    graph = {str(y.name): softmax_axis(y) for y in model.graph.outputs} if model is not None else {}
    called = {name: _LOGITS_AXIS.get(y.ndim, 1) for name, y in floats.items() if _is_called_logits(name)}
    shown = [{name: axis for name, axis in graph.items() if axis is not None}, axes or {}, called]
    found = []
    for name, y in floats.items():
        for axis in _axes(y, task):
            single = y.size == y.shape[0] * y.shape[axis] and axis > 0
            rows = rows_of(y, axis)
            proven = any(one.get(name) == axis for one in shown) or _add_up(
                [y, *(o[name] for o in more if name in o)], axis
            )
            fits = labels is not None and len(rows) == len(labels)
            if task != AUTO or fits or (proven and (single or len(floats) == 1)):
                right = _share_right(rows, labels) if fits and labels is not None else 0.0
                one = ClassScores(name, _probable(rows), len(floats) == 1, axis, single)
                found.append((fits, proven, right, one))
    return max(found, key=lambda one: one[:3])[3] if found else None


def _is_called_logits(name: str) -> bool:
    """Whether the last part of a name is that: ``logits``, ``/classifier/logits``, ``model.logits:0``."""
    return re.split(r"[/.]", name.split(":")[0])[-1].lower() == "logits"


def _is_called_cache(name: str) -> bool:
    """Whether a name is that of a cache that a language model gives back."""
    return re.match(r"(present|past)([._]|$)", name.split("/")[-1].lower()) is not None


def find_class_numbers(
    outputs: Outputs, labels: Labels | None = None, task: str = AUTO, model: ir.Model | None = None
) -> str | None:
    """The integer output that holds class numbers, of a model without class scores; None where none does.

    The task, labels of the same number, or an operator that decides (ArgMax) at its end say so; for arguments
    see :func:`find_class_scores`.
    """
    values = {str(y.name): y for y in model.graph.outputs} if model is not None else {}
    for name, y in outputs.items():
        if y.dtype.kind in "iu" and y.size and task in (AUTO, *SCORED):
            fits = labels is not None and y.size == len(labels)
            if task != AUTO or fits or (name in values and holds_class_numbers(values[name])):
                return name
    return None


def _axes(y: Array, task: str) -> Iterator[int]:
    """Axes of an output along which classes may lie."""
    single = y.ndim >= 2 and math.prod(y.shape[2:]) == 1
    if y.ndim < 2 or not y.size:
        return
    if task == CLASSIFICATION and not single:
        return
    if task == SEGMENTATION and y.ndim < 3:
        return
    least = 1 if task == SEGMENTATION else 2
    axes = [y.ndim - 1] if task == LANGUAGE else [1] if single else [1, y.ndim - 1]
    yield from (axis for axis in dict.fromkeys(axes) if y.shape[axis] >= least)


def _add_up(arrays: Sequence[Array], axis: int) -> bool:
    """Whether many rows are probabilities, or their logarithms."""
    rows = [rows_of(y, axis) for y in arrays if y.ndim > axis]
    if sum(len(one) for one in rows) < MANY or rows[0].shape[1] < 2:
        return False
    return all(are_probabilities(one) for one in rows) or all(
        bool(one.max(initial=0.0) <= 0)
        and all(are_probabilities(np.exp(one[block].astype(np.float64))) for block in blocks(one))
        for one in rows
    )


def _probable(rows_NC: Array) -> bool:
    if rows_NC.shape[1] == 1:
        return bool(rows_NC.min(initial=0.0) >= 0 and rows_NC.max(initial=0.0) <= 1)
    return are_probabilities(rows_NC)


def _share_right(rows_NC: Array, labels: Labels) -> float:
    return float(np.mean(rows_NC.argmax(axis=1) == labels)) if rows_NC.shape[1] > 1 else 0.0


def rows_of(scores: Array, axis: int = 1) -> Array:
    """(rows, C) of class scores: (N, C) of (N, C, 1, ...), (N * H * W, C) of (N, C, H, W)."""
    if scores.ndim == 2 and axis == 1:
        return scores
    return np.moveaxis(scores, axis, -1).reshape(-1, scores.shape[axis])


def blocks(rows_NC: Array, most: int = _BLOCK) -> Iterator[slice]:
    """Rows of scores, ``most`` numbers at a time: what is computed of all of them may be too large."""
    step = max(1, most // max(rows_NC.shape[1], 1))
    return (slice(first, first + step) for first in range(0, len(rows_NC), step))


def are_probabilities(scores_NC: Array) -> bool:
    """Whether scores are probabilities; see the module."""
    for block in blocks(scores_NC):
        p = scores_NC[block].astype(np.float64)
        if p.min(initial=0.0) < 0 or not np.allclose(p.sum(axis=1), 1, rtol=0, atol=_TOLERANCE):
            return False
    return True


def log_of_probabilities(p: Array, least: float = _TINY) -> Array:
    """Logarithms of probabilities, which are scores again; those below ``least`` count as ``least``."""
    return np.log(np.maximum(p, least))


def log_probabilities(scores_NC: Array, probabilities: bool) -> NDArray[np.float64]:
    """(N, C) logarithms of the probabilities of the classes; -inf where a score is.

    Args:
        scores_NC: class scores.
        probabilities: they are probabilities already.
    """
    x = scores_NC.astype(np.float64)
    return np.asarray(log_of_probabilities(x) if probabilities else log_softmax(x, axis=1))


def classes_of(outputs: Outputs, scores: ClassScores | None, numbers: str | None = None) -> Array | None:
    """(rows,) class of each row, -1 where a score is NaN; None without class scores or numbers.

    Args:
        outputs: of a model.
        scores: where its class scores are.
        numbers: the output that holds class numbers, of a model without class scores.
    """
    if scores is not None:
        rows_NC = scores.rows(outputs)
        found = np.zeros(len(rows_NC), np.int64)
        for block in blocks(rows_NC):
            part = rows_NC[block]
            found[block] = np.where(np.isnan(part).any(axis=1), -1, part.argmax(axis=1))
        return found
    return None if numbers is None else outputs[numbers].reshape(-1)
