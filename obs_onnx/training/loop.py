"""The training loop around the steps of an engine.

Weights and slots stay in the engine (:mod:`obs_onnx.training.engines`); the loop draws batches, asks the
teacher, sets the learning rate, and now and then measures the loss on held-out data. The weights that did
best there are the result, the first ones included: as far as the held-out data can tell, training never
leaves a model worse than it found it.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.data.feeds import Feed
from obs_onnx.data.sources import SampleSource, Source
from obs_onnx.evaluation.measures.class_scores import rows_of
from obs_onnx.passes.autodiff.optimizers import Metric
from obs_onnx.passes.autodiff.training_step import trained_weights
from obs_onnx.passes.errors import DataError, OptionError
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.progress import Progress, quiet
from obs_onnx.runtimes.base import Session
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.training.augment import parse_augment
from obs_onnx.training.batches import TrainingBatch, shuffled
from obs_onnx.training.checkpoint import Arrays, Checkpoint
from obs_onnx.training.engines.base import Task, open_engine
from obs_onnx.training.input_metrics import measure_metrics
from obs_onnx.training.objective import LABELS, Objective, ReferenceLoss
from obs_onnx.training.settings import RATES, Settings

__all__ = [
    "RATES",
    "Course",
    "Point",
    "Settings",
    "Trained",
    "check_trainable",
    "train",
    "trainable_arrays",
    "zero_masks",
]

_TRAINED_TYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class Point:
    """How the model did after so many steps.

    Attributes:
        step: done.
        loss: on held-out data; without such, mean on the batches since the point before.
        accuracy: share of samples classified as the labels (without labels: the teacher) say.
    """

    step: int
    loss: float
    accuracy: float | None


@dataclass(frozen=True)
class Course:
    """Where a run stands in a longer one, whose learning rate rises and falls once.

    Between its parts weights are pruned. A part that is not the last one ends with the weights of its last
    step: those that do best half-way, at a high rate, are not those that lead furthest.

    Attributes:
        done: steps before this part.
        total: steps of all parts.
        state: of the engine after the part before; it is used where the weights still have their shapes.
    """

    done: int
    total: int
    state: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """The result.

    Attributes:
        weights: initializer -> trained array.
        before, after: at the start, and with the weights that are the result.
        history: all points.
        steps: done, fewer than asked for if training stopped early.
        seconds: of all steps, without measuring.
        masked: number of weights that are zero and stay so.
        state: of the engine after the last step, for the next part of a longer run.
    """

    weights: Arrays
    before: Point
    after: Point
    history: tuple[Point, ...]
    steps: int
    seconds: float
    masked: int = 0
    state: Arrays = field(default_factory=dict, repr=False)


def zero_masks(model: ir.Model, names: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """For the weights of layers that hold zeros: True where they are not zero."""
    masks = {}
    for name in {layer.name for layer in find_layers(model)[0]} & set(names):
        tensor = model.graph.initializers[name].const_value
        assert tensor is not None
        mask = tensor.numpy() != 0
        if not mask.all():
            masks[name] = mask
    return masks


def check_trainable(runtime: OrtRuntime, model: ir.Model, objective: Objective, settings: Settings) -> None:
    """Build an engine and throw it away.

    Raises:
        GradientError, OptionError, MissingRuntimeError: see :func:`train`.
    """
    start = trainable_arrays(model, trained_weights(model, objective.terms))
    open_engine(runtime, Task(model, objective.terms, start, settings))


def train(
    runtime: OrtRuntime,
    model: ir.Model,
    objective: Objective,
    data: Source,
    settings: Settings,
    *,
    held_out: Source | None = None,
    teacher: Session | None = None,
    keep_zeros: bool = True,
    frozen: Collection[str] = (),
    progress: Progress = quiet,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    course: Course | None = None,
) -> Trained:
    """Train the weights of a model.

    Args:
        runtime: where it runs.
        model: canonical or plain, with inferred shapes, of opset 11 or later; not changed.
        objective: the loss.
        data: to learn from.
        settings: how.
        held_out: to measure on, and to stop by; without it the last weights are the result.
        teacher: whose outputs ``objective`` asks for.
        keep_zeros: weights of layers that are zero stay zero.
        frozen: weights that are not trained.
        progress: shows a stage.
        checkpoint: file in which the run is saved at every evaluation.
        resume: go on from there, if it exists.
        course: the longer run that this one is a part of.

    Raises:
        GradientError: the model cannot be differentiated.
        OptionError: a weight is of a type that is not trained, the engine lacks what the settings ask for, or
            the checkpoint is of another run.
        MissingRuntimeError: the package of the engine is not installed.
        DataError: labels are missing, or there are no images to augment.
    """
    names = [name for name in trained_weights(model, objective.terms) if name not in frozen]
    start = trainable_arrays(model, names)
    masks = zero_masks(model, names) if keep_zeros else {}
    course = course or Course(0, settings.steps)
    loop = _Loop(runtime, model, objective, data, settings, held_out, teacher, start, masks, course)
    about = {**asdict(settings), "model": _fingerprint(start, objective)}
    saved = Checkpoint.load(checkpoint, about) if checkpoint is not None and resume else None
    metrics: Mapping[str, Metric] = {}
    if settings.rule().mixes:
        with progress.stage("moments"):
            metrics = measure_metrics(runtime, model, data, start)
    loop.begin(saved, metrics)
    every = max(1, math.ceil(settings.steps / settings.evaluations))
    views = parse_augment(settings.augment)
    batches = shuffled(data, settings.batch, settings.seed, course.done + loop.step, views)
    with progress.stage("finetune", settings.steps) as advance:
        advance(loop.step)
        while loop.step < settings.steps and not loop.stopped:
            loop.learn(next(batches))
            advance(1)
            if loop.step % every == 0 or loop.step == settings.steps:
                progress.say(_line(loop.measure()))
                if checkpoint is not None:
                    loop.checkpoint(about).save(checkpoint)
    masked = sum(int((~mask).sum()) for mask in masks.values())
    return Trained(
        loop.best,
        loop.history[0],
        loop.best_point,
        tuple(loop.history),
        loop.step,
        loop.seconds,
        masked,
        {} if loop.last else loop.state(),
    )


@dataclass
class _Loop:
    """A run and where it is."""

    runtime: OrtRuntime
    model: ir.Model
    objective: Objective
    data: Source
    settings: Settings
    held_out: Source | None
    teacher: Session | None
    start: Arrays
    masks: Mapping[str, NDArray[np.bool_]]
    course: Course
    step: int = 0
    seconds: float = 0.0
    history: list[Point] = field(default_factory=list)
    best: Arrays = field(default_factory=dict)
    stale: int = 0
    stopped: bool = False

    def __post_init__(self) -> None:
        self._schedule = replace(self.settings, steps=self.course.total).schedule()
        self.last = self.course.done + self.settings.steps >= self.course.total
        self._chooses = self.last and self.held_out is not None
        self._losses: list[float] = []
        self._right = [0, 0]
        rows = self.data.indices.max() + 1 if isinstance(self.data, SampleSource) else None
        self._teach = None if self.teacher is None else ReferenceLoss(self.teacher, self.objective, rows)
        self._asked = None if self.teacher is None else ReferenceLoss(self.teacher, self.objective)

    def begin(self, saved: Checkpoint | None, metrics: Mapping[str, Metric]) -> None:
        """Start, or go on."""
        shown = [self.objective.scores] if self.objective.scores else []
        task = Task(
            self.model,
            self.objective.terms,
            self.start,
            self.settings,
            self.masks,
            shown,
            self.held_out is not None,
            metrics,
        )
        done, state = self._inherited()
        if saved is not None:
            done, state = done + saved.step, saved.state
        self._engine = open_engine(self.runtime, task, done, state)
        if saved is None:
            self.best = dict(self.start)
            self.history = [self._point()]
            return
        self.step, self.best = saved.step, saved.best
        self.history = [Point(*point) for point in saved.progress["history"]]
        self.stale, self.stopped = saved.progress["stale"], saved.progress["stopped"]
        self.seconds = saved.progress["seconds"]

    def _inherited(self) -> tuple[int, Arrays | None]:
        """Steps and state that the engine goes on from: slots of the part before, weights of this one."""
        state = self.course.state
        fits = all(name in state and state[name].shape == array.shape for name, array in self.start.items())
        return (self.course.done, {**state, **self.start}) if fits else (0, None)

    def state(self) -> Arrays:
        """Of the engine."""
        return self._engine.state()

    def learn(self, batch: TrainingBatch) -> None:
        """One step."""
        before = time.perf_counter()
        targets = self._targets(batch, self._teach)
        found = self._engine.step({**batch.feed, **targets}, self._schedule(self.course.done + self.step))
        self.step += 1
        self._losses.append(float(found[self._engine.loss]))
        self._count(found, targets, batch.labels if self.objective.labelled else None, self._right)
        self.seconds += time.perf_counter() - before

    def measure(self) -> Point:
        """Measure, keep the weights if they are the best so far, and decide whether to stop."""
        point, best = self._point(), self.best_point
        self.history.append(point)
        self._losses, self._right = [], [0, 0]
        if not math.isfinite(point.loss):
            self.stopped = True
        elif not self._chooses or point.loss < best.loss:
            self.best, self.stale = self._engine.weights(), 0
        else:
            self.stale += 1
            self.stopped = self.settings.patience is not None and self.stale >= self.settings.patience
        return point

    @property
    def best_point(self) -> Point:
        """The point of the best weights."""
        points = [point for point in self.history if math.isfinite(point.loss)]
        if not points:
            return self.history[0]
        return min(points, key=lambda point: point.loss) if self._chooses else points[-1]

    def checkpoint(self, settings: Mapping[str, Any]) -> Checkpoint:
        """Everything that the rest of the run depends on."""
        progress = {
            "history": [[point.step, point.loss, point.accuracy] for point in self.history],
            "stale": self.stale,
            "stopped": self.stopped,
            "seconds": self.seconds,
        }
        return Checkpoint(settings, self.step, self._engine.state(), self.best, progress)

    def _point(self) -> Point:
        if self.held_out is None:
            loss = float(np.mean(self._losses)) if self._losses else math.nan
            return Point(self.step, loss, self._right[0] / self._right[1] if self._right[1] else None)
        total, samples, right = 0.0, 0, [0, 0]
        for batch in _whole(self.held_out):
            targets = self._targets(batch, self._asked)
            found = self._engine.measure({**batch.feed, **targets})
            rows = max((array.shape[0] for array in batch.feed.values() if array.ndim), default=1)
            total += float(found[self._engine.loss]) * rows
            samples += rows
            self._count(found, targets, batch.labels, right)
        return Point(self.step, total / max(samples, 1), right[0] / right[1] if right[1] else None)

    def _targets(self, batch: TrainingBatch, teacher: ReferenceLoss | None) -> Feed:
        targets = {} if teacher is None else teacher(batch)
        if self.objective.labelled:
            if batch.labels is None:
                raise DataError("the data has no labels to train on: give some, or a teacher")
            targets[LABELS] = batch.labels.reshape(-1, *(1,) * self.objective.trailing)
        return targets

    def _count(self, found: Feed, targets: Feed, labels: NDArray[np.int64] | None, right: list[int]) -> None:
        """Add right answers and answers."""
        scores = found.get(self.objective.scores or "")
        if scores is None:
            return
        if labels is None and self.objective.as_scores:
            labels = rows_of(next(iter(targets.values()))).argmax(axis=1)
        if labels is not None and len(labels) == len(scores):
            right[0] += int((rows_of(scores).argmax(axis=1) == labels).sum())
            right[1] += len(labels)


def _whole(source: Source) -> Iterator[TrainingBatch]:
    for feed, labels in source.batches():
        yield TrainingBatch(feed, labels, None)


def trainable_arrays(model: ir.Model, names: Sequence[str]) -> Arrays:
    """Weights of a model, all of a type that is trained.

    Raises:
        OptionError: there are none, or one is of another type.
    """
    if not names:
        raise OptionError("the model has no weights to train")
    start: Arrays = {}
    for name in names:
        tensor = model.graph.initializers[name].const_value
        assert tensor is not None
        if tensor.dtype not in _TRAINED_TYPES:
            raise OptionError(
                f"weight {name!r} is of type {tensor.dtype.name}: only float32 and float64 are trained, "
                "convert the model first"
            )
        start[name] = np.array(tensor.numpy())
    return start


def _fingerprint(start: Arrays, objective: Objective) -> str:
    digest = hashlib.sha256(repr(objective).encode())
    for name, array in start.items():
        digest.update(name.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _line(point: Point) -> str:
    accuracy = "" if point.accuracy is None else f", accuracy {100 * point.accuracy:.2f}%"
    return f"step {point.step}: loss {point.loss:.4g}{accuracy}"
