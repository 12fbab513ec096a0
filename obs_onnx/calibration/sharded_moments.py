"""Moments of a dense model gathered by several processes: each has a part of the batches, and goes all the
way.

A shard of the data is carried through the whole model by one process. Batches are those that one process
alone would run, so that every product is the same; only the order differs in which they add up in float64:
batch by batch within a shard, then the shards two by two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeAlias

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.calibration.second_moments import Moments
from obs_onnx.calibration.sequential_moments import Halved, SequentialMoments, halved
from obs_onnx.cluster.executor import Executor
from obs_onnx.io.onnx_file import serialize
from obs_onnx.io.tensors import size_of
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.layers.stages import Plan
from obs_onnx.runtimes import Runtime
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.runtimes.sessions.partial_run import Values

__all__ = ["sharded_moments"]

Arrays: TypeAlias = dict[str, list[list[NDArray[Any]]]]
"""By layer, moments of each half, taken apart."""


@dataclass(frozen=True)
class _Shard:
    """Some batches of the data, with all that it takes to gather moments of them: plain data, for any
    process.

    Attributes:
        runtime: where the model runs.
        content: the model.
        plan: its stages.
        layers: names of those whose moments are wanted.
        batches: each with the half that it belongs to.
        halved: moments of each half are wanted.
        of: batches of all shards.
        budget: bytes of activations in memory.
    """

    runtime: OrtRuntime
    content: bytes
    plan: Plan
    layers: frozenset[str]
    batches: list[tuple[int, Values]]
    halved: bool
    of: int
    budget: int

    @cached_property
    def model(self) -> ir.Model:
        """The model."""
        return ir.from_proto(onnx.load_from_string(self.content))

    def __call__(self) -> Arrays:
        feeds, model = Halved(self.batches, self.of), self.model
        walk = SequentialMoments(
            self.runtime, model, self.plan, feeds, self.budget, paired=False, halves=self.halved
        )
        found: Arrays = {}
        for stage in self.plan.stages:
            chosen = [layer for layer in stage.layers if layer.name in self.layers]
            halves = walk.observe_halves(stage, chosen) if self.halved else [walk.observe(stage, chosen)]
            for layer in chosen:
                found[layer.name] = [half.pop(layer.name).arrays() for half in halves]
        return found


def _merged(first: Arrays, second: Arrays) -> Arrays:
    """Moments of the batches of two shards."""
    return {name: list(map(_added, halves, second[name])) for name, halves in first.items()}


def _added(first: list[NDArray[Any]], second: list[NDArray[Any]]) -> list[NDArray[Any]]:
    moments = Moments.of([array.copy() for array in first])
    moments.merge(Moments.of(second))
    return moments.arrays()


def sharded_moments(
    runtime: Runtime,
    model: ir.Model,
    plan: Plan,
    fit: Iterable[Values],
    layers: Sequence[Layer],
    *,
    told_apart: bool,
    executor: Executor,
    memory: int,
) -> dict[str, list[Moments]] | None:
    """Moments of the inputs of layers of a dense model, gathered by several processes.

    Args:
        runtime: where the model runs.
        model: dense.
        plan: its stages.
        fit: feeds, or a source of them.
        layers: of the plan, whose moments are wanted.
        told_apart: of two halves of the samples, rather than of all.
        executor: has the processes.
        memory: bytes that all moments, and the data, may take.

    Returns:
        Moments by layer; None where one process does better: there is no other, the runtime is of this
        machine, or all moments at once, the data or the model do not fit.
    """
    squares = sum(16 * g * i * i for g, _, i in (layer.layout.goi for layer in layers))
    if executor.width < 2 or type(runtime) is not OrtRuntime or not layers:
        return None
    if max(squares, size_of(model)) > memory:
        return None
    batches, held = list[tuple[int, Values]](), 0
    for half, feed in halved(fit) if told_apart else ((0, feed) for feed in fit):
        batches.append((half, feed))
        held += sum(array.nbytes for array in feed.values())
        if held > memory:
            return None
    count, content = min(executor.width, len(batches)), serialize(model)
    bounds = [number * len(batches) // count for number in range(count + 1)]
    names = frozenset(layer.name for layer in layers)
    shards = [
        _Shard(runtime, content, plan, names, batches[first:last], told_apart, len(batches), memory // 2)
        for first, last in pairwise(bounds)
    ]
    found = executor.reduce(shards, _merged)
    return {name: list(map(Moments.of, halves)) for name, halves in found.items()}
