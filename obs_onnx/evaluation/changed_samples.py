"""Samples that a model puts into another class than its reference does: which, and what they look like."""

from __future__ import annotations

import base64
import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from obs_onnx.data.feeds import Array
from obs_onnx.data.images.thumbnail import thumbnail
from obs_onnx.data.sources import Source
from obs_onnx.evaluation.measures.class_scores import ClassScores, log_probabilities
from obs_onnx.results.samples import ChangedSample

__all__ = ["Changed", "ChangedClasses", "shown_samples"]

_MOST = 8  # samples
_NUMBERS = 24  # of a sample that is no picture

Decode = Callable[[NDArray[np.int64]], str]


@dataclass(frozen=True)
class Changed:
    """A sample whose class changed.

    Attributes:
        position: in the data.
        before, after: classes, of the reference and of the model.
        sure_before, sure_after: probability that each gives to its own class.
    """

    position: int
    before: int
    after: int
    sure_before: float
    sure_after: float


class ChangedClasses:
    """Those samples of which the reference was surest, found batch by batch.

    Args:
        scores: where the class scores are; None, or several rows for each sample, finds nothing.
    """

    def __init__(self, scores: ClassScores | None) -> None:
        self._scores = scores if scores is not None and scores.single else None
        self._seen = 0
        self._found: list[Changed] = []

    @property
    def found(self) -> tuple[Changed, ...]:
        """The surest first."""
        return tuple(self._found)

    def add(self, outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> None:
        """One batch, of the model and of the reference under the same names."""
        if self._scores is None:
            return
        mine, theirs = self._scores.rows(outputs), self._scores.rows(reference)
        start, self._seen = self._seen, self._seen + len(theirs)
        if mine.shape != theirs.shape:
            return
        after, before = mine.argmax(1), theirs.argmax(1)
        rows = np.flatnonzero(after != before)
        sure = [
            np.exp(log_probabilities(scores[rows], self._scores.probabilities))[
                np.arange(len(rows)), own[rows]
            ]
            for scores, own in ((theirs, before), (mine, after))
        ]
        new = [
            Changed(start + int(row), int(before[row]), int(after[row]), float(old), float(now))
            for row, old, now in zip(rows, *sure, strict=True)
        ]
        self._found = heapq.nlargest(_MOST, [*self._found, *new], key=lambda one: one.sure_before)


def shown_samples(
    source: Source, changed: Sequence[Changed], decode: Decode | None = None
) -> tuple[ChangedSample, ...]:
    """What these samples look like.

    Args:
        source: the data that they were found in.
        changed: positions in it.
        decode: text of token ids, where that is known.
    """
    wanted = {one.position: one for one in changed}
    if not source.axes.samples:
        return ()
    found, start, last = dict[int, ChangedSample](), 0, max(wanted, default=-1)
    for feed, labels in source.batches():
        if start > last:
            break
        rows = len(feed[source.axes.samples[0]])
        for row in range(rows):
            if (one := wanted.get(start + row)) is not None:
                inputs = {name: feed[name][row] for name in source.axes.samples}
                label = int(labels[row]) if labels is not None and len(labels) == rows else None
                found[one.position] = _shown(one, label, inputs, decode)
        start += rows
    return tuple(found[one.position] for one in changed if one.position in found)


def _shown(
    one: Changed, label: int | None, inputs: Mapping[str, Array], decode: Decode | None
) -> ChangedSample:
    images = {name: image for name, x in inputs.items() if (image := thumbnail(x)) is not None}
    return ChangedSample(
        one.position,
        one.before,
        one.after,
        one.sure_before,
        one.sure_after,
        label,
        {name: base64.b64encode(image).decode("ascii") for name, image in images.items()},
        {name: _text(x, decode) for name, x in inputs.items() if name not in images},
    )


def _text(x: Array, decode: Decode | None) -> str:
    """Text of token ids where that is known, else the first numbers."""
    if decode is not None and x.ndim == 1 and x.dtype.kind in "iu":
        return decode(x.astype(np.int64))
    flat = x.reshape(-1)
    numbers = ", ".join(str(one) if flat.dtype.kind in "OUS" else f"{one:.4g}" for one in flat[:_NUMBERS])
    return numbers if len(flat) <= _NUMBERS else f"{numbers} ... ({len(flat)} numbers)"
