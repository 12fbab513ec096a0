"""Engine on onnxruntime-training: its gradients, its Module and Optimizer.

The forward graph with the loss, and so every loss there is, is the one of the other engine. Two things have
to be made equal:

* Zeros are kept by a mask inside the graph: the model reads ``w * mask``, hence the gradient is ``g * mask``;
  gradient, moments and update of a masked weight are exact zeros in all steps.
* Its AdamW knows one decay for all parameters, which multiplies each with ``k = 1 - rate * decay`` before the
  update; vectors, which are not to decay, are divided by k before.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from obs_onnx.data.feeds import Feed
from obs_onnx.passes.autodiff.optimizers import AdamW
from obs_onnx.passes.autodiff.training_step import loss_graph
from obs_onnx.passes.errors import OptionError
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.training.checkpoint import Arrays
from obs_onnx.training.engines.base import Task
from obs_onnx.training.engines.ort_artifacts import CHECKPOINT, Training, fitted, write_artifacts

__all__ = ["OrtTrainingEngine"]

_SAVED = "onnxruntime-training checkpoint"


class OrtTrainingEngine:
    """See :class:`obs_onnx.training.engines.base.Engine`.

    Args:
        runtime: where it runs: onnxruntime on the CPU.
        task: what is trained.
        done: steps done before; the state knows them, too.
        state: of an engine to go on from; None for a start.

    Raises:
        GradientError: the package has no gradient for an operator.
        OptionError: it lacks the optimizer, or a weight is not float32, or operators are custom ones.
        MissingRuntimeError: it is not installed.
    """

    def __init__(self, runtime: OrtRuntime, task: Task, done: int = 0, state: Arrays | None = None) -> None:
        _check(runtime, task)
        rule = task.settings.rule()
        self._decay = rule.decay if isinstance(rule, AdamW) else 0.0
        self._names = list(task.start)
        self._vectors = [name for name, array in task.start.items() if array.ndim < 2]
        model, self.loss = loss_graph(task.model, task.terms, shown=task.shown, masks=task.masks)
        with tempfile.TemporaryDirectory(prefix="obs-onnx-") as name:
            folder = Path(name)
            write_artifacts(folder, fitted(model), self.loss, self._names, rule, task.shown)
            if state is not None:
                (folder / CHECKPOINT).write_bytes(state[_SAVED].tobytes())
            self._training = Training(runtime, folder, task.measured)

    def step(self, feed: Feed, rate: float) -> Feed:
        """See :class:`obs_onnx.training.engines.base.Engine`."""
        found = self._training.gradients(feed)
        if self._decay:
            keep = 1 - rate * self._decay
            for name in self._vectors:
                self._training.set_weight(name, self._training.weight(name) / np.float32(keep))
        self._training.update(rate)
        return found

    def measure(self, feed: Feed) -> Feed:
        """See :class:`obs_onnx.training.engines.base.Engine`."""
        return self._training.evaluate(feed)

    def weights(self) -> Arrays:
        """See :class:`obs_onnx.training.engines.base.Engine`."""
        return {name: self._training.weight(name) for name in self._names}

    def state(self) -> Arrays:
        """See :class:`obs_onnx.training.engines.base.Engine`: the package's own checkpoint, as bytes."""
        with tempfile.TemporaryDirectory(prefix="obs-onnx-") as name:
            path = Path(name, CHECKPOINT)
            self._training.save(path)
            return {_SAVED: np.frombuffer(path.read_bytes(), np.uint8)}


def _check(runtime: OrtRuntime, task: Task) -> None:
    for name, array in task.start.items():
        if array.dtype != np.float32:
            raise OptionError(
                f"weight {name!r} is of type {array.dtype}: onnxruntime-training trains float32 only, "
                "use the trainer graph"
            )
    if task.roundings:
        name = next(iter(task.roundings))
        raise OptionError(
            f"weight {name!r} is stored as integers: onnxruntime-training does not round weights that it "
            "trains, use the trainer graph"
        )
    if runtime.custom_ops:
        raise OptionError("onnxruntime-training takes no custom operators: use the trainer graph")
    rule = task.settings.rule()
    if isinstance(rule, AdamW) and task.settings.schedule().peak * rule.decay >= 1:
        raise OptionError("the weight decay times the learning rate is 1 or more: make one of them smaller")
