"""Models of given widths, cut into blocks, each timed once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.feeds import Feed
from obs_onnx.figures import is_tensor
from obs_onnx.latency.cache import LatencyCache, signature
from obs_onnx.model_file import serialize
from obs_onnx.passes.blocks import Block, cut_blocks
from obs_onnx.passes.coupling import Coupling
from obs_onnx.passes.remove_channels import RemoveChannels
from obs_onnx.passes.segments import extract
from obs_onnx.runtimes import Runtime, Session
from obs_onnx.timing import quick
from obs_onnx.walk import Values, open_part

__all__ = ["BlockClock", "groups_of_blocks", "narrowed"]

_SECONDS = 0.02


def narrowed(coupling: Coupling, counts: Mapping[int, int]) -> ir.Model:
    """The model with the first ``counts`` channels of each group; which ones does not matter for time."""
    keep = {
        group.id: np.arange(group.n) < counts[group.id] for group in coupling.groups if group.id in counts
    }
    small = coupling.model.clone()
    RemoveChannels(keep, coupling.of(small)).call(small)
    return small


def groups_of_blocks(coupling: Coupling) -> dict[str, tuple[int, ...]]:
    """For each block of the dense model the groups whose counts change its sizes."""
    found = {}
    for block in cut_blocks(coupling.model):
        values = [v for node in block.nodes for v in (*node.inputs, *node.outputs) if v is not None]
        found[block.name] = tuple(sorted({group for value in values for group in coupling.groups_of(value)}))
    return found


@dataclass
class BlockClock:
    """Times the blocks of models.

    Attributes:
        target: where blocks are timed.
        local: where the models run to find what goes into each block.
        sample: one complete feed of the model.
        cache: of earlier times.
        timed: blocks that had to be timed.
        asked: blocks that were asked for.
        session: of the last model, on ``target``.
    """

    target: Runtime
    local: Runtime
    sample: Values
    cache: LatencyCache
    timed: int = 0
    asked: int = 0
    _overhead: float | None = field(default=None, init=False)

    def times(self, model: ir.Model, names: frozenset[str] | None = None) -> dict[str, float]:
        """Milliseconds of each block of a model by name, of all or of those in ``names``.

        What a run costs without any work is taken off.
        """
        blocks = [block for block in cut_blocks(model) if names is None or block.name in names]
        values = self._values(model, blocks)
        found = {}
        for block in blocks:
            if not block.outputs:
                continue
            part = block.model(model)
            feed = {str(value.name): values[str(value.name)] for value in part.graph.inputs}
            key = signature(part, feed)
            known = self.cache.get(key)
            self.asked += 1
            if known is None:
                known = quick(self._session(part, feed), feed, _SECONDS)
                self.cache.put(key, known)
                self.timed += 1
            found[block.name] = max(known - self.overhead, 0.0)
        return found

    def open(self, model: ir.Model) -> Session:
        """A session of a whole model where it is timed."""
        return self.target.session(serialize(model))

    @property
    def overhead(self) -> float:
        """Milliseconds of a run that does nothing."""
        if self._overhead is None:
            x = ir.Value(name="x", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))
            node = ir.node("Neg", [x])
            node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = "y", x.shape, x.type
            graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 17}, name="nothing")
            session = self.target.session(serialize(ir.Model(graph, ir_version=8)))
            self._overhead = quick(session, {"x": np.zeros(1, np.float32)}, _SECONDS)
        return self._overhead

    def _session(self, part: ir.Model, feed: Feed) -> Session:
        for value in part.graph.inputs:  # inference on parts may have missed types and ranks
            array = feed[str(value.name)]
            value.dtype, value.shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
        return self.target.session(serialize(part))

    def _values(self, model: ir.Model, blocks: list[Block]) -> dict[str, NDArray[Any]]:
        names = [str(value.name) for value in model.graph.inputs if not value.is_initializer()]
        wanted = [name for name in dict.fromkeys(_all_inputs(blocks)) if name not in names]
        found = {name: np.asarray(self.sample[name]) for name in names}
        if wanted:  # every value an output: nothing is fused away
            every = [str(value.name) for node in model.graph for value in node.outputs if is_tensor(value)]
            session = open_part(self.local, extract(model, names, every), self.sample)
            found |= session.run({spec.name: self.sample[spec.name] for spec in session.inputs}, wanted)
        return found


def _all_inputs(blocks: list[Block]) -> Iterator[str]:
    for block in blocks:
        yield from block.inputs
