"""What every engine can do: one step of training, a measurement, and its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.data.feeds import Feed
from obs_onnx.passes.autodiff.optimizers import Metric
from obs_onnx.passes.autodiff.rounding import Rounding
from obs_onnx.passes.autodiff.training_step import Term
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.training.checkpoint import Arrays
from obs_onnx.training.engines.registry import TRAINERS
from obs_onnx.training.settings import Settings

__all__ = ["Engine", "Opener", "Task", "open_engine"]


@dataclass(frozen=True)
class Task:
    """What an engine trains.

    Attributes:
        model: canonical or plain, with inferred shapes, of opset 11 or later; not changed.
        terms: of the loss.
        start: initializer that is trained -> its value before the first step, all of one float type.
        settings: how.
        masks: weight -> True where it may change.
        shown: values of the model that are given out beside the loss.
        measured: whether :meth:`Engine.measure` will be called.
        metrics: weight -> what its steps are measured by, where the optimizer asks for it.
        roundings: weight -> what it is rounded to before it is read.
    """

    model: ir.Model
    terms: Sequence[Term]
    start: Arrays
    settings: Settings
    masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    shown: Sequence[str] = ()
    measured: bool = False
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    roundings: Mapping[str, Rounding] = field(default_factory=dict)


class Engine(Protocol):
    """A run of training: weights and slots, and how they move.

    Attributes:
        loss: name of the loss in what :meth:`step` and :meth:`measure` return.
    """

    loss: str

    def step(self, feed: Feed, rate: float) -> Feed:
        """One update; the loss and the values shown, computed with the weights before it.

        Args:
            feed: inputs of the model, and targets.
            rate: learning rate.

        Raises:
            ModelError: the step fails.
        """

    def measure(self, feed: Feed) -> Feed:
        """The loss and the values shown for the weights as they are."""

    def weights(self) -> Arrays:
        """Copies of all trained weights as they are."""

    def state(self) -> Arrays:
        """Everything that an engine needs to go on, weights included."""


class Opener(Protocol):
    """A class of engines, or a function that makes one."""

    def __call__(self, runtime: OrtRuntime, task: Task, done: int, state: Arrays | None) -> Engine:
        """See :func:`open_engine`."""


def open_engine(runtime: OrtRuntime, task: Task, done: int = 0, state: Arrays | None = None) -> Engine:
    """The engine that the settings name, at its start or after ``done`` steps with the ``state`` of then.

    Raises:
        GradientError: the model cannot be differentiated.
        OptionError: the engine lacks what the settings ask for.
        MissingRuntimeError: its package is not installed.
    """
    opener: Opener = resolve_name(TRAINERS[task.settings.trainer].place)
    return opener(runtime, task, done, state)
