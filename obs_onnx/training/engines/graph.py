"""The default engine: forward pass, loss, backward pass and update in one graph of standard operators.

Weights and slots stay in the runtime (:mod:`obs_onnx.training.engines.resident_session`).
"""

from __future__ import annotations

import numpy as np

from obs_onnx.data.feeds import Feed
from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.autodiff.training_step import loss_graph, training_step
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.training.checkpoint import Arrays
from obs_onnx.training.engines.base import Task
from obs_onnx.training.engines.resident_session import Measured, Resident

__all__ = ["GraphEngine"]


class GraphEngine:
    """See :class:`obs_onnx.training.engines.base.Engine`.

    Args:
        runtime: where it runs.
        task: what is trained.
        done: steps done before.
        state: of an engine after these steps; None for a start. What a mask excludes may still have moved
            then.

    Raises:
        GradientError: the model cannot be differentiated.
    """

    def __init__(self, runtime: OrtRuntime, task: Task, done: int = 0, state: Arrays | None = None) -> None:
        self._rule = task.settings.rule()
        self._names, self._steps = list(task.start), done
        self._graph = training_step(
            task.model,
            task.terms,
            self._names,
            self._rule,
            task.masks,
            task.shown,
            task.metrics,
            task.roundings,
        )
        self.loss = self._graph.loss
        if state is None:
            zeros = {slot: np.zeros_like(task.start[name]) for slot, name in self._graph.slots.items()}
            state = {**task.start, **zeros}
        masked = {slot: task.masks[name] for slot, name in self._graph.slots.items() if name in task.masks}
        state = {name: array * masked[name] if name in masked else array for name, array in state.items()}
        self._like = next(iter(task.start.values())).dtype
        self._session = Resident(runtime, serialize(self._graph.model), self._graph.carried, state)
        self._measured: Measured | None = None
        if task.measured:
            graph, name = loss_graph(
                task.model, task.terms, self._names, task.shown, roundings=task.roundings
            )
            assert name == self.loss
            self._measured = Measured(runtime, serialize(graph))

    def step(self, feed: Feed, rate: float) -> Feed:
        """See :class:`obs_onnx.training.engines.base.Engine`."""
        self._steps += 1
        numbers = self._rule.numbers(self._steps, rate)
        scalars = {self._graph.scalars[name]: np.array(n, self._like) for name, n in numbers.items()}
        return self._session.run({**feed, **scalars, **self._graph.held})

    def measure(self, feed: Feed) -> Feed:
        """See :class:`obs_onnx.training.engines.base.Engine`."""
        assert self._measured is not None
        return self._measured.run(feed, self._session.shared(self._names))

    def weights(self) -> Arrays:
        """See :class:`obs_onnx.training.engines.base.Engine`."""
        return self._session.state(self._names)

    def state(self) -> Arrays:
        """See :class:`obs_onnx.training.engines.base.Engine`."""
        return self._session.state(self._graph.carried.values())
