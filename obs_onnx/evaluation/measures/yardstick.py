"""What a model's outputs are taken for and measured by: decided once, of the dense model, for all that
asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.data.feeds import Array, is_float
from obs_onnx.data.sources import Source
from obs_onnx.evaluation.measures.class_scores import ClassScores, find_class_numbers, find_class_scores
from obs_onnx.evaluation.measures.next_tokens import NextTokens, find_next_tokens
from obs_onnx.evaluation.measures.options import AUTO, CLASSIFICATION, LANGUAGE, SEGMENTATION
from obs_onnx.evaluation.measures.parts import Part, Spreads, weighted
from obs_onnx.passes.channels.pieces import ChannelAxis, channel_axes
from obs_onnx.passes.errors import InputError, OptionError, named
from obs_onnx.passes.printable import first_of
from obs_onnx.runtimes import Session

__all__ = ["CHANGED", "ERROR", "HELD", "KL", "Yardstick", "choose_measure", "read_outputs", "yardstick_of"]

KL, ERROR, CHANGED = "kl", "error", "changed"

HELD = 64 << 20
"""Bytes of outputs that may be held at once, beside the last of them."""

_WANTED = {
    CLASSIFICATION: "with class scores (samples, classes)",
    SEGMENTATION: "with class scores for each position, such as (samples, classes, height, width)",
    LANGUAGE: "with class scores (samples, tokens, classes)",
}
_SHOWN = 3  # names in a note
_FEEDS = 16  # that are looked at for class scores


@dataclass(frozen=True)
class Yardstick:
    """How outputs are measured.

    Attributes:
        task: what the model is for, one of :data:`obs_onnx.evaluation.measures.options.TASKS`; auto where
            nothing says it.
        scores: where its class scores are, if it gives any.
        numbers: the output that holds class numbers, of a model without class scores.
        parts: of its outputs of a floating-point type.
        tokens: the token ids that the class scores of a language model are about.
        measure: of damage, see :mod:`obs_onnx.evaluation.measures.output_damage`.
    """

    task: str = AUTO
    scores: ClassScores | None = None
    numbers: str | None = None
    parts: tuple[Part, ...] = ()
    tokens: NextTokens | None = None
    measure: str = ERROR

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader of an error has to know about parts that do not vary or are not compared."""
        idle = [part.name for part in self.parts if part.weight == 0]
        still = [part.name for part in self.parts if part.still and part.weight]
        found = []
        if idle:
            found.append(f"not compared, as their weight is 0: {', '.join(idle)}")
        if still:
            found.append(
                f"no variation on the calibration data in {first_of(still, _SHOWN)} of the outputs: its "
                "error is relative to its level, or where that is 0 to the spread of the rest"
            )
        return tuple(found)


def yardstick_of(
    answers: Iterable[Mapping[str, Array]],
    *,
    model: ir.Model | None = None,
    task: str = AUTO,
    labelled: tuple[Mapping[str, Array], NDArray[np.int64]] | None = None,
    weights: Mapping[str, float] | None = None,
    loss: str = ERROR,
    axes: Mapping[str, int] | None = None,
    tokens: NextTokens | None = None,
) -> Yardstick:
    """The yardstick for a model.

    Args:
        answers: its outputs for one batch after the other.
        model: with these outputs, where it can be looked at: functions inlined, constants lifted.
        task: what was asked for.
        labelled: its outputs for a batch with labels, and these, (rows,), if there are any.
        weights: of parts, see :func:`obs_onnx.evaluation.measures.parts.weighted`.
        loss: damage that is asked for, see :func:`choose_measure`.
        axes: of outputs, along which what lies behind them looks for classes.
        tokens: that an output is about; scores in it are those of a language model.

    Raises:
        OptionError: a task, a weight or a loss that does not fit the outputs.
    """
    rest = iter(answers)
    seen = _few(rest)
    first, labels = (seen[0], None) if labelled is None else labelled
    scores = find_class_scores(first, labels, task, model, seen if labelled else seen[1:], axes)
    numbers = None if scores is not None else find_class_numbers(first, labels, task, model)
    if task in _WANTED and scores is None and numbers is None:
        raise OptionError(f"{named('task')} {task} needs an output {_WANTED[task]}: give another task")
    if tokens is not None and (scores is None or (scores.name, scores.axis) != (tokens.output, 2)):
        tokens = None
    if task == AUTO and tokens is not None:
        task = LANGUAGE
    elif task == AUTO and (scores is not None or numbers is not None):
        single = _is_one_each(first[str(numbers)]) if scores is None else scores.single
        task = CLASSIFICATION if single else SEGMENTATION
    whole = {scores.name: scores.axis} if scores is not None and task != SEGMENTATION else {}
    classes = () if scores is None else (scores.name,)
    spreads = Spreads(_channel_axes(model), whole, classes)
    for outputs in seen:
        spreads.add(outputs)
    for outputs in rest:
        spreads.add(outputs)
    parts = weighted(spreads.parts(), weights or {})
    found = Yardstick(task, scores, numbers, parts, tokens if task == LANGUAGE else None)
    return replace(found, measure=choose_measure(loss, found, first))


def read_outputs(
    session: Session,
    source: Source,
    *,
    model: ir.Model | None = None,
    task: str = AUTO,
    weights: Mapping[str, float] | None = None,
    spreads: bool = True,
    axes: Mapping[str, int] | None = None,
) -> Yardstick:
    """The yardstick for a model that runs in ``session``; see :func:`yardstick_of`.

    Args:
        session: of the model.
        source: data; without ``spreads`` no more of it is looked at than class scores take.
        model, task, weights, axes: as there.
        spreads: whether errors are to be measured.
    """
    feed, labels = next(iter(source.batches()))
    first = session.run(feed)
    labelled = None if labels is None else (first, labels)
    tokens = find_next_tokens(session, feed, first, model) if task in (AUTO, LANGUAGE) else None
    answers = (session.run(feed) for feed in source)
    looked_at = answers if spreads else islice(answers, _FEEDS)
    return yardstick_of(
        looked_at, model=model, task=task, labelled=labelled, weights=weights, axes=axes, tokens=tokens
    )


def _few(answers: Iterator[Mapping[str, Array]]) -> list[Mapping[str, Array]]:
    """The first answers, as many as may be held at once."""
    found, size = list[Mapping[str, Array]](), 0
    for outputs in answers:
        found.append(outputs)
        size += sum(y.nbytes for y in outputs.values())
        if len(found) == _FEEDS or size > HELD:
            break
    return found


def choose_measure(asked: str, yardstick: Yardstick, outputs: Mapping[str, Array]) -> str:
    """The measure of damage for a model that gives ``outputs``.

    ``auto`` takes ``kl`` for class scores that are alone. Without any float output it is ``changed``.

    Raises:
        OptionError: an unknown measure, or ``kl`` for a model without class scores.
    """
    if asked not in (KL, ERROR, AUTO):
        raise OptionError(f"loss {asked!r} is unknown: use {KL}, {ERROR} or {AUTO}")
    alone = yardstick.scores is not None and yardstick.scores.alone
    if asked == KL and not alone:
        raise OptionError(
            f"loss {KL} needs a model with one output of class scores (a softmax, labels or "
            f"{named('task')} say that it is one): use {ERROR}"
        )
    if not any(is_float(y.dtype) for y in outputs.values()):
        return CHANGED
    return KL if alone and asked != ERROR else ERROR


def _is_one_each(numbers: Array) -> bool:
    """Whether there is one for each sample."""
    return numbers.ndim == 0 or numbers.size == len(numbers)


def _channel_axes(model: ir.Model | None) -> Mapping[str, Sequence[ChannelAxis]]:
    try:
        return {} if model is None else channel_axes(model)
    except InputError:  # what cannot be read off a graph is not known
        return {}
