"""Loss, gradient and Gauss-Newton products of a model's weights on their support, as functions of vectors.

Weights that are zero stay zero: a vector has an entry for each weight that may change, and for no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.data.sources import Source
from obs_onnx.passes.autodiff.gauss_newton import curvature_graphs
from obs_onnx.passes.autodiff.training_step import loss_graph
from obs_onnx.passes.graph.set_weights import STORED
from obs_onnx.runtimes.base import Runtime, Session
from obs_onnx.runtimes.sessions.partial_run import Values, open_part, run_feed
from obs_onnx.training.batches import TrainingBatch
from obs_onnx.training.objective import Objective, ReferenceLoss

__all__ = ["Curvature", "Support"]

Vector = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Support:
    """Weights that may change, and how they lie in a vector.

    Attributes:
        start: all weights, by name.
        masks: True where a weight may change; all of it where there is none.
        narrow: types that weights have to fit in, where these are narrower than their own.
    """

    start: Mapping[str, NDArray[Any]]
    masks: Mapping[str, NDArray[np.bool_]]
    narrow: Mapping[str, np.dtype[Any]]

    @classmethod
    def of(
        cls, model: ir.Model, start: Mapping[str, NDArray[Any]], masks: Mapping[str, NDArray[np.bool_]]
    ) -> Support:
        """Of weights of a model."""
        found = {name: model.graph.initializers[name].meta.get(STORED) for name in start}
        return cls(start, masks, {name: dtype.numpy() for name, dtype in found.items() if dtype is not None})

    @property
    def size(self) -> int:
        """Number of weights that may change."""
        return sum(int(self.masks[n].sum()) if n in self.masks else a.size for n, a in self.start.items())

    def vector(self, arrays: Mapping[str, NDArray[Any]]) -> Vector:
        """The entries of arrays of the weights' shapes that may change."""
        parts = [arrays[n][self.masks[n]] if n in self.masks else arrays[n].reshape(-1) for n in self.start]
        return np.concatenate(parts).astype(np.float64, copy=False)

    def arrays(self, vector: Vector) -> Arrays:
        """Arrays of the weights' shapes and types, with zeros where nothing may change."""
        found, first = Arrays(), 0
        for name, like in self.start.items():
            array = np.zeros(like.shape, like.dtype)
            mask = self.masks.get(name)
            count = like.size if mask is None else int(mask.sum())
            part = vector[first : first + count]
            if mask is None:
                array[...] = part.reshape(like.shape)
            else:
                array[mask] = part
            found[name], first = array, first + count
        return found

    def weights(self, vector: Vector) -> Arrays:
        """The same as they can be stored."""
        found = self.arrays(vector)
        return found | {
            name: found[name].astype(t).astype(found[name].dtype) for name, t in self.narrow.items()
        }


class Curvature:
    """A loss and its derivatives, averaged over data.

    Args:
        runtime: where everything runs.
        model: canonical, with inferred shapes, of opset 11 or later.
        objective: the loss.
        teacher: session of the model whose outputs are the targets.
        support: weights that may change.
        feed: one for which sessions are opened.

    Raises:
        GradientError: an operator on the way has no derivative.
        ModelError: the runtime cannot load a graph.
    """

    def __init__(
        self,
        runtime: Runtime,
        model: ir.Model,
        objective: Objective,
        teacher: Session,
        support: Support,
        feed: Values,
    ) -> None:
        names = list(support.start)
        self._support, self._targets = support, ReferenceLoss(teacher, objective)
        self._graphs = curvature_graphs(model, objective.terms, names)
        measured, self._loss_name = loss_graph(model, objective.terms, names)
        self._measured = open_part(runtime, measured, feed)
        self._gradient = open_part(runtime, self._graphs.gradient, feed)
        self._product = open_part(runtime, self._graphs.product, feed)

    def loss(self, vector: Vector, data: Source) -> float:
        """Mean over the data; the weights are those that can be stored."""
        weights = self._support.weights(vector)
        found = self._mean(
            data, lambda fed: {"": run_feed(self._measured, {**fed, **weights})[self._loss_name]}
        )
        return float(found[""])

    def gradient(self, vector: Vector, data: Source) -> Vector:
        """Of the mean loss."""
        weights = self._support.weights(vector)
        return self._sum(data, self._gradient, self._graphs.gradients, weights)

    def product(self, vector: Vector, direction: Vector, data: Source) -> Vector:
        """The Gauss-Newton matrix of the mean loss, times a direction."""
        names = self._graphs.vectors
        moved = {names[name]: array for name, array in self._support.arrays(direction).items()}
        weights = self._support.weights(vector)
        return self._sum(data, self._product, self._graphs.products, {**weights, **moved})

    def _sum(self, data: Source, session: Session, outputs: Mapping[str, str], fixed: Values) -> Vector:
        def run(fed: Values) -> Arrays:
            found = run_feed(session, {**fed, **fixed}, list(outputs.values()))
            return {name: found[output] for name, output in outputs.items()}

        return self._support.vector(self._mean(data, run))

    def _mean(self, data: Source, run: Callable[[Values], Arrays]) -> dict[str, NDArray[Any]]:
        """Means of what ``run`` gives for feeds with their targets, each batch by its samples."""
        total, sums = 0, dict[str, NDArray[Any]]()
        for fed, rows in self._feeds(data):
            total += rows
            for name, array in run(fed).items():
                part = rows * np.asarray(array, np.float64)
                sums[name] = sums[name] + part if name in sums else part
        return {name: array / total for name, array in sums.items()}

    def _feeds(self, data: Source) -> Iterator[tuple[Values, int]]:
        for feed, labels in data.batches():
            rows = max((array.shape[0] for array in feed.values() if array.ndim), default=1)
            yield {**feed, **self._targets(TrainingBatch(feed, labels, None))}, rows
