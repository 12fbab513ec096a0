"""The loss whose derivatives judge weights and channels, and what the outputs are compared with.

* Class scores (see :mod:`obs_onnx.evaluation.measures.class_scores`): cross-entropy with the labels of the
  data. Without labels the dense model is the teacher, by the class it ranks first: the divergence from its
  own *probabilities* has its minimum at the dense model, where all first derivatives are zero, while the
  cross-entropy with its best class has not. The Fisher matrix is an expectation over the model's own
  probabilities, whether there are labels or not: its targets are ``drawn`` from them several times for each
  example, or ``expected``: every class in turn with its probability as weight, where there are few (the
  labels in their place agree less with the oracle).
* Anything else: mean squared error to the dense model's first float output. With ``exact`` targets the first
  derivatives are zero there too, and the Hessian is ``2 J^T J / n``; criteria of first order therefore take
  ``noisy`` targets, with random signs of the outputs' size added: the derivative is then ``J^T noise``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from scipy.special import log_softmax

from obs_onnx.data.feeds import is_float
from obs_onnx.data.sources import Source
from obs_onnx.evaluation.measures.class_scores import find_class_scores, log_probabilities, rows_of
from obs_onnx.evaluation.measures.options import AUTO
from obs_onnx.passes.autodiff.gradient import find
from obs_onnx.passes.autodiff.losses import append_loss
from obs_onnx.passes.canonical.modernize import modernize
from obs_onnx.passes.canonical.plainer.on_numbers import on_numbers
from obs_onnx.passes.errors import GradientError
from obs_onnx.passes.graph.emitter import Emitter
from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.shapes.complete_shapes import CompleteShapes
from obs_onnx.runtimes.base import Runtime, Session
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.runtimes.sessions.partial_run import Values, open_part, run_feed

__all__ = ["LABELS", "Aim", "LabelledBatches", "Lesson", "ReferenceLoss"]

LABELS = "labels"  # the input that a loss brings with it
_TINY = 1e-12
_DRAWS = 4
_FEW = 16  # classes

Array = NDArray[np.generic]
Aim = Literal["exact", "noisy", "drawn", "expected"]


@dataclass(frozen=True)
class ReferenceLoss:
    """How the outputs of a model are judged.

    Attributes:
        output: name of the output that counts.
        classes: it holds class scores, judged by cross-entropy; otherwise by mean squared error.
        probabilities: the scores are probabilities already.
    """

    output: str
    classes: bool
    probabilities: bool

    @classmethod
    def of(
        cls,
        outputs: Values,
        labels: NDArray[np.int64] | None = None,
        task: str = AUTO,
        model: ir.Model | None = None,
    ) -> ReferenceLoss:
        """The teacher for a model that gives ``outputs``; see
        :func:`obs_onnx.evaluation.measures.class_scores.find_class_scores` for the arguments.

        Raises:
            GradientError: none is of a float type.
        """
        floats = [name for name, y in outputs.items() if is_float(y.dtype)]
        if not floats:
            raise GradientError("no output of the model is of a float type, so it has no gradient")
        found = find_class_scores(outputs, labels, task, model)
        if found is not None and found.single:
            return cls(found.name, True, found.probabilities)
        return cls(floats[0], False, False)

    def judged(self, model: ir.Model) -> str:
        """Name of the value that the loss sees: the output, or its logarithm."""
        if not self.probabilities:
            return self.output
        emitter = Emitter(model, Names(model), "teacher")
        (p,) = find(model, [self.output])
        return str(emitter.op("Log", emitter.op("Clip", p, _TINY, None)).name)

    def append(self, model: ir.Model) -> str:
        """Append the loss, with an input :data:`LABELS`; its name."""
        return append_loss(model, "cross_entropy" if self.classes else "mse", self.judged(model))

    def targets(
        self, dense: Array, labels: NDArray[np.int64] | None, aim: Aim, random: np.random.Generator
    ) -> Array:
        """What is fed as labels; see the module for ``aim``."""
        if not self.classes:
            y = dense.astype(np.float64)
            size = 0.0 if aim == "exact" else float(np.sqrt(np.mean(np.square(y))))
            return np.asarray(y + size * random.choice([-1.0, 1.0], y.shape)).astype(dense.dtype)
        if aim in ("drawn", "expected"):
            p = self.shares(dense)
            labels = (p.cumsum(axis=1) > random.random((len(p), 1))).argmax(axis=1)
        elif labels is None:
            labels = rows_of(dense).argmax(axis=1)
        return np.asarray(labels, np.int64).reshape(dense.shape[0], *dense.shape[2:])

    def shares(self, y: Array) -> NDArray[np.float64]:
        """(N, C) probabilities of the classes."""
        return np.exp(self._log_probabilities(y))

    def loss(self, y: Array, targets: Array) -> float:
        """The loss on one batch, in float64."""
        if not self.classes:
            return float(np.mean((y.astype(np.float64) - targets.astype(np.float64)) ** 2))
        rows = self._log_probabilities(y)
        return float(-rows[np.arange(len(rows)), targets.reshape(-1).astype(np.int64)].mean())

    def cotangent(self, y: Array, targets: Array) -> Array:
        """Gradient of the loss with respect to the value that :meth:`judged` names."""
        if not self.classes:
            difference = y.astype(np.float64) - targets.astype(np.float64)
            return (2 * difference / y.size).astype(y.dtype)
        p = self.shares(y)
        p[np.arange(len(p)), targets.reshape(-1).astype(np.int64)] -= 1
        return np.asarray((p / len(p)).reshape(y.shape), y.dtype)

    def _log_probabilities(self, y: Array) -> NDArray[np.float64]:
        """(N, C); probabilities are brought to a sum of 1, as the loss in the graph does by its softmax."""
        found = log_probabilities(rows_of(y), self.probabilities)
        return np.asarray(log_softmax(found, axis=1)) if self.probabilities else found


@dataclass(frozen=True)
class Lesson:
    """A batch.

    Attributes:
        feed: of the model.
        dense: what the model gives for it, of the output that counts.
        targets: see :meth:`ReferenceLoss.targets`.
        samples: examples in it.
        weights: (samples,) of the examples.
    """

    feed: Values
    dense: Array
    targets: Array
    samples: int
    weights: NDArray[np.float64]


class LabelledBatches:
    """A model and its data, as derivatives need them.

    Args:
        runtime: where the model runs.
        model: canonical.
        fit: a source, with labels or without, or feeds.
        seed: of what is drawn.
        task: what the model is for, one of :data:`obs_onnx.evaluation.measures.options.TASKS`.
    """

    def __init__(
        self, runtime: Runtime, model: ir.Model, fit: Iterable[Values], seed: int = 0, task: str = AUTO
    ) -> None:
        self.runtime = runtime.unpaired() if isinstance(runtime, OrtRuntime) else runtime
        self._model, self._fit, self._seed, self._task = model, fit, seed, task

    @cached_property
    def model(self) -> ir.Model:
        """The model in a form that can be differentiated; clone it to change it.

        Raises:
            ModelError: it cannot be converted.
        """
        model = on_numbers(modernize(self._model))
        model = model.clone() if model is self._model else model
        CompleteShapes().call(model)
        return model

    @cached_property
    def teacher(self) -> ReferenceLoss:
        """Chosen by what the model gives for the first batch."""
        feed, labels = next(_labelled(self._fit))
        return ReferenceLoss.of(self._run(feed), labels, self._task, self._model)

    def batches(self, size: int, aim: Aim = "exact", most: int | None = None) -> Iterator[Lesson]:
        """All data in batches of ``size`` where the model's batch is free.

        Args:
            size: examples per batch.
            aim: of the targets, see the module.
            most: examples at most.
        """
        random = np.random.default_rng(self._seed)
        for feed, labels in self._parts(size, most):
            dense = self._run(feed)[self.teacher.output]
            samples = dense.shape[0] if dense.ndim else 1
            if aim == "expected" and self.teacher.classes and dense.shape[1] <= _FEW:
                for label, weights in enumerate(self.teacher.shares(dense).T):
                    targets = np.full((samples, *dense.shape[2:]), label)
                    yield Lesson(feed, dense, targets, samples, weights)
                continue
            for _ in range(_DRAWS if aim in ("drawn", "expected") else 1):
                targets = self.teacher.targets(dense, labels, aim, random)
                yield Lesson(feed, dense, targets, samples, np.ones(samples))

    def _parts(self, size: int, most: int | None) -> Iterator[tuple[Values, NDArray[np.int64] | None]]:
        if not isinstance(self._fit, Source):
            yield from _labelled(self._fit)
            return
        yield from (self._fit if most is None else self._fit.limit(most)).rebatch(size).batches()

    def _run(self, feed: Values) -> Values:
        return run_feed(self._session, feed)

    @cached_property
    def _session(self) -> Session:
        return open_part(self.runtime, self._model.clone(), next(iter(self._fit)))


def _labelled(fit: Iterable[Values]) -> Iterator[tuple[Values, NDArray[np.int64] | None]]:
    """Feeds with their labels, where they have any."""
    return fit.batches() if isinstance(fit, Source) else ((feed, None) for feed in fit)
