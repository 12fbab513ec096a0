"""Retraining: a model in whatever form, taught by a dense one, on data that is already open."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from obs_onnx.data.sources import Source
from obs_onnx.evaluation.measures.options import AUTO
from obs_onnx.evaluation.measures.parts import Part
from obs_onnx.passes.canonical.canonicalize import canonicalize, plain
from obs_onnx.passes.canonical.modernize import modernize
from obs_onnx.passes.errors import ModelError
from obs_onnx.passes.shapes.infer_shapes import InferShapes
from obs_onnx.progress import Progress, quiet
from obs_onnx.runtimes import Session
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.training.augment import augmented, parse_augment
from obs_onnx.training.loop import Course, Settings, Trained, check_trainable, train
from obs_onnx.training.objective import Objective, choose_objective
from obs_onnx.work.work_folder import NOWHERE, Work

__all__ = ["Retraining", "modern", "retrain", "unfolded"]

_GLANCE = 1024  # samples on which a round is measured after which nothing is chosen


@dataclass(frozen=True)
class Retraining:
    """Trains pruned models to give the dense one's outputs.

    What follows several rounds of pruning is one course: its learning rate rises and falls once.

    Attributes:
        runtime: where it runs.
        teacher: session of the dense model.
        fit, held_out: to learn from, and to stop by.
        settings: of the run after the last round.
        between: steps after every round before it.
        rounds: of pruning.
        labels: learn the labels, too.
        mix: their share of the loss.
        task: what the models are for.
        progress: shows a stage.
        parts: of the outputs, with what their errors are measured against.
        work: where finished parts are kept.
    """

    runtime: OrtRuntime
    teacher: Session
    fit: Source
    held_out: Source
    settings: Settings
    labels: bool = False
    mix: float = 0.5
    task: str = AUTO
    between: int = 0
    rounds: int = 1
    progress: Progress = quiet
    parts: tuple[Part, ...] = ()
    work: Work = NOWHERE

    def __call__(
        self,
        model: ir.Model,
        frozen: Collection[str],
        keep_zeros: bool,
        before: Sequence[Trained] = (),
        last: bool = True,
    ) -> Trained:
        """Train all weights but ``frozen`` ones of a model, which is not changed.

        Args:
            model: with what the round removed.
            frozen: initializers.
            keep_zeros: weights of layers that are zero stay zero.
            before: what was trained so far, one after each round of pruning.
            last: no round of pruning follows.

        Raises:
            GradientError: it cannot be differentiated.
        """
        settings = self.settings if last else replace(self.settings, steps=self.between, evaluations=1)
        course = self._course(before, last)
        work = self.work.stage("retrain", model, settings, set(frozen), keep_zeros, course.done, course.total)
        checkpoint = None if work.folder is None else work.place("checkpoint")

        def trained() -> Trained:
            return retrain(
                self.runtime,
                model,
                self.objective(model),
                self.fit,
                settings,
                held_out=self.held_out if last else self.held_out.limit(_GLANCE),
                teacher=self.teacher if self._taught else None,
                keep_zeros=keep_zeros,
                frozen=frozen,
                progress=self.progress,
                checkpoint=checkpoint,
                resume=checkpoint is not None,
                course=course,
            )

        found = work.one(Trained, "trained", trained)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        return found

    @property
    def _taught(self) -> bool:
        return not (self.labels and self.mix == 1)

    def _course(self, before: Sequence[Trained], last: bool) -> Course:
        done = sum(run.steps for run in before)
        ahead = 0 if last else self.between * (self.rounds - 1 - len(before))
        return Course(done, done + ahead + self.settings.steps, before[-1].state if before else {})

    def check(self, model: ir.Model) -> None:
        """Fail now rather than after hours if a model cannot be trained.

        Raises:
            GradientError: an operator on the way has no rule.
            OptionError: the weights are of a type that is not trained.
            DataError: there are no images to augment.
        """
        augmented(next(iter(self.held_out)), parse_augment(self.settings.augment), (0,))
        check_trainable(self.runtime, modern(model), self.objective(model), self.settings)

    def objective(self, model: ir.Model) -> Objective:
        """What is minimised for a model."""
        feed, labels = next(iter(self.held_out.batches()))
        return choose_objective(
            model,
            self.teacher.run(feed),
            labels=self.labels,
            teacher=self._taught,
            mix=self.mix,
            task=self.task,
            given=labels,
            parts=self.parts,
        )


def retrain(
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
    """:func:`obs_onnx.training.loop.train`, which explains the arguments, for a model of any opset.

    Raises:
        ModelError: the model is too old to be differentiated and cannot be converted.
    """
    found = train(
        runtime,
        modern(model),
        objective,
        data,
        settings,
        held_out=held_out,
        teacher=teacher,
        keep_zeros=keep_zeros,
        frozen=frozen,
        progress=progress,
        checkpoint=checkpoint,
        resume=resume,
        course=course,
    )
    for name, array in found.weights.items():
        held = model.graph.initializers.get(name)
        if held is None or held.const_value is None or tuple(held.const_value.shape.numpy()) != array.shape:
            raise ModelError(
                f"weight {name!r} is another one in a newer opset: convert the model to opset 13 first"
            )
    return found


def modern(model: ir.Model) -> ir.Model:
    """A copy that can be differentiated; BatchNormalization that is left stays as it is."""
    folded = all(node.op_type != "BatchNormalization" for node in model.graph)
    return modernize(model, canonicalize if folded else unfolded)


def unfolded(model: ir.Model) -> ir.Model:
    """A copy without functions and Constant nodes, with shapes, and nothing folded."""
    stored = plain(model)
    InferShapes().call(stored)
    return stored
