"""What training minimises: cross-entropy to labels, or the distance to a teacher's outputs, or both mixed.

* labels: ``cross_entropy`` of the class scores, see :mod:`obs_onnx.evaluation.measures.class_scores`;
* teacher with class scores alone: ``logits``, half the mean square of the difference of centred scores (or
  ``kl``, the divergence of the student's from the teacher's class probabilities, which sees little but the
  first class where the teacher is sure);
* teacher with any other outputs: the mean over their parts (:mod:`obs_onnx.evaluation.measures.parts`) of the
  square of the error that they are measured by, so that no part drowns another by its scale; where the parts
  are not known, for each float output the ``mse``, relative to the mean square of the teacher's output;
* both: ``mix`` times the first and ``1 - mix`` times the second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.data.feeds import Feed, is_float
from obs_onnx.evaluation.measures.class_scores import (
    are_probabilities,
    find_class_scores,
    log_of_probabilities,
    rows_of,
)
from obs_onnx.evaluation.measures.options import AUTO, CLASSIFICATION
from obs_onnx.evaluation.measures.parts import Part
from obs_onnx.passes.autodiff.training_step import Term
from obs_onnx.passes.errors import DataError, OptionError
from obs_onnx.passes.graph.logits import logits_of
from obs_onnx.runtimes.base import Session
from obs_onnx.training.batches import TrainingBatch

__all__ = ["Objective", "ReferenceLoss", "choose_objective"]

LABELS, TEACHER = "labels", "teacher"
_CACHE_BYTES = 2**28


@dataclass(frozen=True)
class Objective:
    """The loss of a model.

    Attributes:
        terms: of the loss; the targets are names of inputs of the training graph.
        taught: target -> output of the teacher.
        scores: value with class scores (samples, classes) or (samples, classes, 1, ...), where there are any.
        as_scores: the teacher's outputs are class scores; probabilities are turned into such.
        trailing: axes of size 1 behind the classes, which the labels have, too.
    """

    terms: tuple[Term, ...]
    taught: Mapping[str, str]
    scores: str | None
    as_scores: bool
    trailing: int = 0

    @property
    def labelled(self) -> bool:
        """Whether the loss needs labels."""
        return any(term.target == LABELS for term in self.terms)


def choose_objective(
    model: ir.Model,
    answer: Feed,
    *,
    labels: bool,
    teacher: bool,
    mix: float = 0.5,
    distance: str = "logits",
    task: str = AUTO,
    given: NDArray[np.int64] | None = None,
    axes: Mapping[str, int] | None = None,
    parts: Sequence[Part] = (),
) -> Objective:
    """The terms of the loss.

    Args:
        model: to train.
        answer: its outputs (or the teacher's) for one batch.
        labels: train on labels.
        teacher: train on a teacher's outputs.
        mix: share of the labels where there are both.
        distance: of class scores to the teacher's: ``logits`` or ``kl``.
        task: what the model is for, one of :data:`obs_onnx.evaluation.measures.options.TASKS`.
        given: labels of the batch, which tell class scores, whether they are trained on or not.
        axes: of outputs, along which what lies behind them looks for classes.
        parts: of the outputs, with what their errors are measured against.

    Raises:
        OptionError: neither, or a share out of range.
        DataError: labels for a model without class scores, or no float outputs.
    """
    if not (labels or teacher):
        raise OptionError("nothing to learn from: give data with labels, or a teacher")
    if not 0 <= mix <= 1:
        raise OptionError(f"mix {mix}: give a number between 0 and 1")
    outputs = {str(y.name): y for y in model.graph.outputs}
    floats = [name for name, array in answer.items() if name in outputs and is_float(array.dtype)]
    if not floats:
        raise DataError("no output of the model is of a float type: there is nothing to train")
    if labels and given is None and task == AUTO:
        task = CLASSIFICATION  # cross-entropy is of nothing else
    found = find_class_scores({name: answer[name] for name in floats}, given, task, model, axes=axes)
    found = found if found is not None and found.single else None
    scores = None if found is None else str(logits_of(outputs[found.name]).name)
    hidden = found is not None and found.probabilities and scores == found.name
    classes = found is not None and found.alone and not hidden  # hidden: no value has them as its softmax
    terms: list[Term] = []
    taught: dict[str, str] = {}
    if labels:
        if scores is None:
            raise DataError("labels are classes, but no output of the model has shape (samples, classes)")
        terms.append(Term("cross_entropy", scores, LABELS, mix if teacher else 1.0))
    share = 1 - mix if labels else 1.0
    if teacher and classes and found is not None and scores is not None:
        terms.append(Term(distance, scores, TEACHER, share))
        taught[TEACHER] = found.name
    elif teacher:
        terms += _distances({name: answer[name] for name in floats}, parts, share)
        taught |= {term.target: term.output for term in terms if term.target != LABELS}
    trailing = 0 if found is None else answer[found.name].ndim - 2
    return Objective(tuple(terms), taught, scores, classes, trailing)


def _distances(answer: Feed, parts: Sequence[Part], share: float) -> Iterator[Term]:
    """Terms for the outputs of a teacher, which weigh ``share`` together."""
    counted = [part for part in parts if part.weight and part.scale > 0 and part.output in answer]
    if not counted:
        for name, y in answer.items():
            square = float(np.mean(np.square(y.astype(np.float64))))
            scale = 1 / square if np.isfinite(square) and square > 0 else 1.0
            yield Term("mse", name, f"{TEACHER}.{name}", share * scale / len(answer))
        return
    for name, y in answer.items():
        own = [part for part in counted if part.output == name]
        divided = [part.axis for part in own if part.axis is not None and part.elements]
        axis = divided[0] if divided else 0
        factors = np.zeros(y.shape[axis] if divided else 1)
        for part in own:  # all elements of its output count in the mean, whose part it is
            chosen = list(part.elements) if part.elements else slice(None)
            few = len(part.elements) / len(factors) if part.elements else 1.0
            factors[chosen] = part.weight / part.scale / few**0.5
        if own:
            told = tuple(factors.tolist())
            yield Term("mse", name, f"{TEACHER}.{name}", share / len(counted), told, axis)


class ReferenceLoss:
    """A model whose outputs are the targets; those for one sample are computed once.

    Args:
        session: of the teacher.
        objective: says which outputs are wanted.
        rows: samples in the source, where they have numbers.
    """

    def __init__(self, session: Session, objective: Objective, rows: int | None = None) -> None:
        self._session, self._objective = session, objective
        self._known = None if rows is None else np.zeros(rows, bool)
        self._cache: dict[str, NDArray[Any]] = {}

    def __call__(self, batch: TrainingBatch) -> Feed:
        """Target -> array for one batch."""
        rows = batch.rows
        if rows is not None and self._known is not None and self._known[rows].all():
            return {target: array[rows] for target, array in self._cache.items()}
        wanted = self._objective.taught
        found = self._session.run(batch.feed, list(wanted.values()))
        made = {target: found[name] for target, name in wanted.items()}
        if self._objective.as_scores:
            made = {target: _scores(array) for target, array in made.items()}
        if rows is not None and self._known is not None:
            self._remember(rows, made)
        return made

    def _remember(self, rows: NDArray[np.int64], made: Feed) -> None:
        assert self._known is not None
        count = len(self._known)
        if not self._cache:
            each = [array.nbytes / max(len(array), 1) if array.ndim else np.inf for array in made.values()]
            if (
                any(array.shape[:1] != rows.shape for array in made.values())
                or sum(each) * count > _CACHE_BYTES
            ):
                self._known = None
                return
            self._cache = {
                target: np.zeros((count, *array.shape[1:]), array.dtype) for target, array in made.items()
            }
        if any(array.shape[1:] != self._cache[target].shape[1:] for target, array in made.items()):
            self._known = None
            return
        for target, array in made.items():
            self._cache[target][rows] = array
        self._known[rows] = True


def _scores(y: NDArray[Any]) -> NDArray[Any]:
    """Class scores; of probabilities the logarithm, down to the smallest normal number."""
    return log_of_probabilities(y, np.finfo(y.dtype).tiny) if are_probabilities(rows_of(y)) else y
