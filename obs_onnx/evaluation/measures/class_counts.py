"""What class scores are worth: accuracy, agreement, divergence, mean intersection over union, perplexity.

With ``p`` and ``q`` the class probabilities of the reference and of the model, over all rows of scores:

    kl                        mean of sum_c p_c log(p_c / q_c)
    miou                      mean over classes of |both say c| / |any says c|, without those that none says
    perplexity                exp(mean of -log q_label), of labels or of the next tokens
    perplexity_dense          the same of the reference
    perplexity_to_reference   exp(mean of -sum_c p_c log q_c)
    perplexity_of_reference   the same with p for q, which is the least there can be
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from obs_onnx.data.feeds import Array
from obs_onnx.evaluation.measures.class_scores import blocks, classes_of, log_probabilities
from obs_onnx.evaluation.measures.options import LANGUAGE, SEGMENTATION
from obs_onnx.evaluation.measures.output_damage import divergence
from obs_onnx.evaluation.measures.yardstick import Yardstick
from obs_onnx.passes.errors import DataError

__all__ = ["ClassCounts", "Overlap"]

Outputs = Mapping[str, Array]
Labels = NDArray[np.int64]


@dataclass
class Overlap:
    """Intersection and union of two maps of classes, counted by class."""

    both: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    any: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, a: Labels, b: Labels) -> None:
        """(rows,) of both maps; negative classes are none."""
        size = max(int(a.max(initial=-1)), int(b.max(initial=-1)), len(self.both) - 1) + 1
        self.both, self.any = (np.pad(one, (0, size - len(one))) for one in (self.both, self.any))
        counts = [np.bincount(one[one >= 0], minlength=size) for one in (a, b, a[(a == b) & (a >= 0)])]
        self.both += counts[2]
        self.any += counts[0] + counts[1] - counts[2]

    @property
    def mean(self) -> float | None:
        """Mean intersection over union, of the classes that either map holds."""
        there = self.any > 0
        return float(np.mean(self.both[there] / self.any[there])) if there.any() else None


class ClassCounts:
    """Counts of classes and labels, batch by batch.

    Args:
        yardstick: where the class scores are.
    """

    def __init__(self, yardstick: Yardstick) -> None:
        self._yardstick = yardstick
        self._labelled = self._right = self._right5 = self._same = self._compared = self._classes = 0
        self._sums: dict[str, float] = {}
        self._rows: dict[str, float] = {}
        self._overlaps: dict[str, Overlap] = {}

    def add_labels(self, outputs: Outputs, labels: Labels) -> None:
        """One batch and its labels.

        Raises:
            DataError: labels that do not fit.
        """
        yardstick, scores = self._yardstick, self._yardstick.scores
        classes = classes_of(outputs, scores, yardstick.numbers)
        if classes is None:
            return
        if len(labels) != len(classes):
            raise DataError(
                f"{len(labels)} labels for {len(classes)} rows of class scores: give one for each row"
            )
        there = np.ones(len(labels), bool)
        rows_NC = None if scores is None else scores.rows(outputs)
        if scores is not None and rows_NC is not None:
            self._classes = rows_NC.shape[1]
            if not scores.single:
                there = (labels >= 0) & (labels < self._classes)  # -100, 255: nobody labelled these
            elif labels.max() >= self._classes:
                raise DataError(
                    f"labels go up to {labels.max()}, the model has {self._classes} classes (counted from "
                    "0): give the labels the model was trained with"
                )
        given, labels, classes = labels, labels[there], classes[there]
        self._labelled += len(labels)
        self._right += int((classes == labels).sum())
        if rows_NC is not None and self._classes > 5 and yardstick.task != SEGMENTATION:
            self._right5 += _among_five(rows_NC[there], labels)
        if yardstick.task == SEGMENTATION:
            self._overlaps.setdefault("miou", Overlap()).add(classes, labels)
        if yardstick.task == LANGUAGE and rows_NC is not None:
            self._add_surprise("perplexity", rows_NC, np.where(there, given, -1))

    def add_reference(self, outputs: Outputs, reference: Outputs) -> None:
        """One batch, and what the reference gives for it."""
        yardstick = self._yardstick
        mine = classes_of(outputs, yardstick.scores, yardstick.numbers)
        theirs = classes_of(reference, yardstick.scores, yardstick.numbers)
        if mine is None or theirs is None:
            return
        both = min(len(mine), len(theirs))
        self._same += int((mine[:both] == theirs[:both]).sum())
        self._compared += max(len(mine), len(theirs))
        if yardstick.task == SEGMENTATION and len(mine) == len(theirs):
            self._overlaps.setdefault("miou_to_reference", Overlap()).add(mine, theirs)
        if yardstick.scores is not None:
            self._add_divergence(outputs, reference)

    def add_tokens(self, name: str, outputs: Outputs, tokens: Labels) -> None:
        """One batch, and the token that each row of scores should foretell; -1 for none.

        Args:
            name: of the measure.
            outputs: of the model.
            tokens: (rows,).
        """
        scores = self._yardstick.scores
        if scores is not None and len(rows_NC := scores.rows(outputs)) == len(tokens):
            self._add_surprise(name, rows_NC, tokens)

    def _add_surprise(self, name: str, rows_NC: Array, labels: Labels) -> None:
        """Minus the logarithms of the probabilities of labels, where there are any."""
        scores, total = self._yardstick.scores, 0.0
        assert scores is not None
        for block in blocks(rows_NC):
            there = np.flatnonzero(labels[block] >= 0)
            logs = log_probabilities(rows_NC[block][there], scores.probabilities)
            total -= float(logs[np.arange(len(there)), labels[block][there]].sum())
        self._mean(name, total, int((labels >= 0).sum()))

    def _add_divergence(self, outputs: Outputs, reference: Outputs) -> None:
        found = divergence(self._yardstick, reference, outputs)
        self._mean("kl", found.kl, found.rows)
        if self._yardstick.task == LANGUAGE:
            self._mean("perplexity_of_reference", found.entropy, found.rows)
            self._mean("perplexity_to_reference", found.entropy + found.kl, found.rows)

    def _mean(self, name: str, total: float, rows: float) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + float(total)
        self._rows[name] = self._rows.get(name, 0.0) + rows

    @property
    def classes(self) -> int:
        """How many there are, by scores with labels; 0 where that was not seen."""
        return self._classes

    @property
    def labelled(self) -> int:
        """Rows with labels."""
        return self._labelled

    @property
    def accuracy(self) -> float | None:
        """Share of the rows whose largest score is their label."""
        return self._right / self._labelled if self._labelled else None

    @property
    def accuracy_top5(self) -> float | None:
        """The same for the five largest, with more than five classes."""
        counted = self._labelled and self._classes > 5 and self._yardstick.task != SEGMENTATION
        return self._right5 / self._labelled if counted else None

    @property
    def agreement(self) -> float | None:
        """Share of the rows put into the same class as by the reference."""
        return self._same / self._compared if self._compared else None

    @property
    def measures(self) -> dict[str, float]:
        """All others, by name; see the module."""
        means = {name: total / self._rows[name] for name, total in self._sums.items() if self._rows[name]}
        found = {n: _exp(one) if n.startswith("perplexity") else one for n, one in means.items()}
        overlaps = {name: one.mean for name, one in self._overlaps.items()}
        return {**found, **{name: mean for name, mean in overlaps.items() if mean is not None}}


def _among_five(rows_NC: Array, labels: Labels) -> int:
    """Rows whose label is among their five largest scores."""
    found = 0
    for block in blocks(rows_NC):
        best = np.argpartition(-rows_NC[block].astype(np.float32), 5, axis=1)[:, :5]
        found += int((best == labels[block][:, None]).any(axis=1).sum())
    return found


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
