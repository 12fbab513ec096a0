"""Engines of training: one file per engine behind one small protocol.

* ``graph``: one graph of standard operators, on any onnxruntime; the faster one (benchmarks/training.py).
* ``ort-training``: onnxruntime-training, whose artifacts also train on devices.

In: a :class:`Task` (model, loss, settings). Out: an :class:`Engine` that makes one step at a time. Next:
:mod:`obs_onnx.training.loop` drives it.
"""

from __future__ import annotations

from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.training.checkpoint import Arrays
from obs_onnx.training.engines.base import Engine, Task
from obs_onnx.training.engines.graph import GraphEngine

__all__ = ["Engine", "Task", "open_engine"]


def open_engine(runtime: OrtRuntime, task: Task, done: int = 0, state: Arrays | None = None) -> Engine:
    """The engine that the settings name, at its start or after ``done`` steps with the ``state`` of then.

    Raises:
        GradientError: the model cannot be differentiated.
        OptionError: the engine lacks what the settings ask for.
        MissingRuntimeError: its package is not installed.
    """
    if task.settings.trainer == "ort-training":
        from obs_onnx.training.engines.ort_training import OrtTrainingEngine

        return OrtTrainingEngine(runtime, task, state)
    return GraphEngine(runtime, task, done, state)
