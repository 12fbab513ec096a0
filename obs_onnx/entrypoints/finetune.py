"""finetune(): train the weights of a model a little, on labels, on a teacher's outputs, or on both.

Zeros of a pruned model stay zeros, which is checked on the file in the end; removed channels are not there to
come back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.data.feeds import Feed, TensorSpec
from obs_onnx.data.fixed import Fixed, fixed_names, with_fixed
from obs_onnx.data.language.cache_sizes import implied_sizes
from obs_onnx.data.open_source import open_source, split
from obs_onnx.data.sources import Source
from obs_onnx.entrypoints.files import check_files
from obs_onnx.entrypoints.options.finetune import FinetuneOptions
from obs_onnx.entrypoints.options.keywords import takes
from obs_onnx.evaluation.finite_outputs import check_outputs
from obs_onnx.evaluation.free_batch import Open, find_free_batch, freed_source
from obs_onnx.evaluation.measures.parts import Part
from obs_onnx.evaluation.measures.yardstick import read_outputs
from obs_onnx.evaluation.merged import fitted
from obs_onnx.io.json_file import jsonable
from obs_onnx.io.onnx_file import ModelLike, load_model, open_model, save_model
from obs_onnx.option import asked
from obs_onnx.passes.batch.free_batch import FreeBatch
from obs_onnx.passes.canonical.canonicalize import canonicalize, plain
from obs_onnx.passes.errors import DataError, VerificationError, boundary
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.report import format as fmt
from obs_onnx.runtimes import Session
from obs_onnx.runtimes.bfloat16 import runnable
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.runtimes.sessions.partial_run import open_whole
from obs_onnx.training.loop import Point, Settings, Trained, zero_masks
from obs_onnx.training.objective import Objective, choose_objective
from obs_onnx.training.retraining import retrain, unfolded
from obs_onnx.training.settings import choose_optimizer
from obs_onnx.verification.front import Front, find_front

__all__ = ["FinetuneReport", "Finetuned", "finetune"]

HELD_OUT = 0.125
_GLANCE = 512  # samples that the spread of a teacher's outputs is taken from
_LEAST_HELD_OUT = 16  # samples or feeds in all, from which on some are held out


@dataclass(frozen=True)
class FinetuneReport:
    """What was done and measured; ready for JSON.

    Attributes:
        model, output, teacher: files.
        labels: trained on labels.
        settings: of the run.
        before, after: loss and accuracy on held-out data.
        history: of them.
        steps: done.
        ms_per_step: milliseconds, the time to read data included.
        masked: number of weights that were zero and still are.
        seconds: in all.
        notes: what the reader should know.
        options: what was asked for, where it is not the default.
    """

    model: str
    output: str | None
    teacher: str | None
    labels: bool
    settings: Settings
    before: Point
    after: Point
    history: tuple[Point, ...]
    steps: int
    ms_per_step: float
    masked: int
    seconds: float
    notes: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    schema: int = 1

    def summary(self) -> str:
        """The run in one line."""
        before, after = self.before, self.after
        parts = [f"loss {fmt.error(before.loss)} -> {fmt.error(after.loss)}"]
        if before.accuracy is not None and after.accuracy is not None:
            parts.append(f"accuracy {fmt.percent(before.accuracy, 2)} -> {fmt.percent(after.accuracy, 2)}")
        parts.append(f"{self.steps:,} steps of {fmt.milliseconds(self.ms_per_step)}")
        return f"{self.model} -> {self.output or 'memory'}: {', '.join(parts)}"

    def to_json(self) -> object:
        """All fields, ready for JSON."""
        return jsonable(self)


@dataclass(frozen=True)
class Finetuned:
    """What :func:`finetune` returns.

    Attributes:
        model: the trained one.
        report: how it went.
    """

    model: ir.Model
    report: FinetuneReport


@takes(FinetuneOptions)
def finetune(model: ModelLike, options: FinetuneOptions) -> Finetuned:
    """Train a model.

    Weights and biases of layers, and scales and shifts of normalizations, are trained. The weights with the
    lowest loss on held-out data are the result.

    Args:
        model: a file, or a model in memory (which is not changed).
        options: see :class:`obs_onnx.entrypoints.options.finetune.FinetuneOptions`.

    Raises:
        ModelError, DataError, OptionError: bad input; nothing is written.
        VerificationError: a zero came back; nothing is written.
    """
    begin = time.perf_counter()
    settings = _settings(options)
    check_files(model, options)
    original, name, _ = open_model(model, None)
    with boundary(f"{name} cannot be opened for training"), options.shown.stage("open"):
        runtime = OrtRuntime(None, options.threads, tuple(options.custom_ops), spinning=False)
        front = find_front(runtime, with_fixed(original, options.fix), options.cut)
        lesson = _prepared(runtime, front, options)
    found = retrain(
        runtime,
        lesson.student,
        lesson.objective,
        lesson.fit,
        settings,
        held_out=lesson.judged,
        teacher=lesson.teacher,
        keep_zeros=options.keep_zeros,
        progress=options.shown,
        checkpoint=options.checkpoint,
        resume=options.resume,
    )
    trained = SetWeights(found.weights)(lesson.stored.clone()).model
    result = front.complete(trained if lesson.batch is None else lesson.batch.put_back(trained))
    masks = zero_masks(lesson.student, list(found.weights)) if options.keep_zeros else {}
    _write(runtime, front, result, masks, lesson.sample, options)
    return Finetuned(result, _report(name, lesson, settings, found, options, begin))


@dataclass(frozen=True)
class _Lesson:
    """What a model is trained on.

    Attributes:
        stored: the model in the form whose weights are the result's; it takes any number of samples, where
            that is possible.
        batch: how it was made so, where the model as it came in has a fixed batch.
        student: the same in a form that can be trained.
        objective: the loss.
        fit, judged: data to learn from, and to measure on.
        teacher, taught_by: session and name of the teacher.
        labelled: the labels are learnt.
        notes: what the reader should know.
    """

    stored: ir.Model
    batch: FreeBatch | None
    student: ir.Model
    objective: Objective
    fit: Source
    judged: Source | None
    teacher: Session | None
    taught_by: str | None
    labelled: bool
    notes: tuple[str, ...]

    @property
    def sample(self) -> Feed:
        """Data that the model takes as it came in."""
        feed = next(iter(self.fit))
        return feed if self.batch is None else fitted(feed, self.batch.inputs, self.batch.size)


def _prepared(runtime: OrtRuntime, front: Front, options: FinetuneOptions) -> _Lesson:
    """Open the data and the teacher, and choose the loss."""
    labels, seed, sizes = options.labels, options.seed, implied_sizes(front.model)
    taught, name = _teacher(options.teacher, front, options.fix)
    dense, batch = _freed(runtime, front.model, taught, partial(_open, options, sizes, options.data))
    model = front.model if batch is None else batch.model
    stored = canonicalize(model) if options.fold else unfolded(model)
    student, copied = runnable(runtime, stored)
    session = open_whole(runtime, student)
    if dense is not None:
        _check_teacher(dense, session, f"the teacher {name}")
    opened = [
        freed_source(batch, session.inputs, options.batch, partial(_open, options, sizes, data))
        for data in (options.data, options.eval)
        if data is not None
    ]
    source = opened[0]
    fit, judged = _parts(source, None if options.eval is None else opened[1], seed)
    labelled = dense is None or labels is not None
    if labelled and not source.has_labels:
        raise DataError("nothing to learn from: the data has no labels, and no teacher is given")
    feed, given = next(iter(fit.batches()))
    answer = session.run(feed)
    check_outputs(runtime, student, feed, answer)
    if dense is not None:
        answer = dense.run(feed)
        check_outputs(runtime, None, feed, answer, f"the teacher {name}")
    parts: tuple[Part, ...] = ()
    if dense is not None:
        parts = read_outputs(dense, fit.limit(_GLANCE), model=student, task=options.task).parts
    objective = choose_objective(
        student,
        answer,
        labels=labelled,
        teacher=dense is not None,
        mix=options.mix,
        task=options.task,
        given=given,
        axes=front.class_axes,
        parts=parts,
    )
    notes = [*front.notes, *source.notes]
    if judged is None:
        notes.append("too little data to hold some out: the last weights are the result")
    if copied:
        notes.append("trained on a float32 copy of the bfloat16 model")
    return _Lesson(stored, batch, student, objective, fit, judged, dense, name, labelled, tuple(notes))


def _write(
    runtime: OrtRuntime,
    front: Front,
    result: ir.Model,
    masks: Mapping[str, NDArray[np.bool_]],
    feed: Feed,
    options: FinetuneOptions,
) -> None:
    """Check that the zeros are there, and write the model if its file has them, too, and runs.

    Raises:
        VerificationError: a zero came back.
    """
    _check_zeros(result, masks)
    if options.output is None:
        return

    def check(written: Path) -> None:
        again = load_model(written, custom_domains=None)
        _check_zeros(again, masks)
        part = again if front.runs else front.part(again)
        open_whole(runtime, runnable(runtime, part)[0]).run(feed)

    save_model(result, options.output, check)


def _report(
    name: str,
    lesson: _Lesson,
    settings: Settings,
    found: Trained,
    options: FinetuneOptions,
    begin: float,
) -> FinetuneReport:
    return FinetuneReport(
        model=name,
        output=None if options.output is None else str(options.output),
        teacher=lesson.taught_by,
        labels=lesson.labelled,
        settings=settings,
        before=found.before,
        after=found.after,
        history=found.history,
        steps=found.steps,
        ms_per_step=1000 * found.seconds / max(found.steps, 1),
        masked=found.masked,
        seconds=time.perf_counter() - begin,
        notes=lesson.notes,
        options=asked(options),
    )


def _settings(options: FinetuneOptions) -> Settings:
    return Settings(
        options.steps,
        options.batch,
        choose_optimizer(options.optimizer, options.trainer),
        options.lr,
        options.warmup,
        options.momentum,
        options.weight_decay,
        options.seed,
        options.evaluations,
        options.patience,
        options.trainer,
        options.augment,
    )


def _parts(source: Source, held_out: Source | None, seed: int) -> tuple[Source, Source | None]:
    if held_out is not None:
        return source, held_out
    if source.count is not None and source.count < _LEAST_HELD_OUT:
        return source, None
    return split(source, HELD_OUT, seed)


def _open(
    options: FinetuneOptions, sizes: Mapping[str, int], data: object, specs: Sequence[TensorSpec]
) -> Source:
    """Data for inputs."""
    return open_source(
        data,
        specs,
        batch_size=options.batch,
        labels_key=options.labels,
        seed=options.seed,
        preprocess=options.preprocess,
        without=fixed_names(options.fix),
        sizes=sizes,
        text=options.text,
    )


def _freed(
    runtime: OrtRuntime, student: ir.Model, teacher: ir.Model | None, open_data: Open
) -> tuple[Session | None, FreeBatch | None]:
    """The session of the teacher, and how the student takes any number of samples, if its teacher does."""
    batch = find_free_batch(runtime, student, open_data)
    if teacher is None:
        return None, batch
    freed = find_free_batch(runtime, teacher, open_data)
    dense = open_whole(runtime, runnable(runtime, teacher if freed is None else freed.model)[0])
    sizes = {spec.name: spec.shape for spec in dense.inputs}
    fixed = batch is not None and any(
        (shape := sizes.get(name)) is not None and axis < len(shape) and isinstance(shape[axis], int)
        for name, axis in batch.inputs.items()
    )
    if not fixed:
        return dense, batch
    return open_whole(runtime, runnable(runtime, teacher)[0]), None


def _teacher(teacher: ModelLike | None, front: Front, fix: Fixed) -> tuple[ir.Model | None, str | None]:
    """As much of the teacher as the model is measured at, and its name."""
    if teacher is None:
        return None, None
    model, name, _ = open_model(teacher, None)
    return front.part(plain(with_fixed(model, fix, partly=True)), f"the teacher {name}"), name


def _check_teacher(dense: Session, student: Session, called: str) -> None:
    """Refuse a teacher of other inputs and outputs.

    Raises:
        DataError: it is one.
    """
    if {spec.name for spec in dense.inputs} != {spec.name for spec in student.inputs}:
        raise DataError(f"{called} takes other inputs than the model: only the same can teach it")
    missing = [spec.name for spec in student.outputs if spec.name not in {y.name for y in dense.outputs}]
    if missing:
        raise DataError(f"{called} has no output {missing[0]!r}")


def _check_zeros(model: ir.Model, masks: Mapping[str, NDArray[np.bool_]]) -> None:
    """Every masked weight is zero in ``model``.

    Raises:
        VerificationError: one is not.
    """
    for name, mask in masks.items():
        held = model.graph.initializers.get(name)
        tensor = None if held is None else held.const_value
        if tensor is None or np.any(tensor.numpy()[~mask] != 0):
            raise VerificationError(f"zeros of {name!r} came back in training")
