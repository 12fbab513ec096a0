"""Models of given widths, cut into blocks, each timed once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from obs_onnx.feeds import Feed
from obs_onnx.latency.cache import LatencyCache, signature
from obs_onnx.model_file import serialize
from obs_onnx.passes.blocks import cut_blocks
from obs_onnx.passes.coupling import Coupling
from obs_onnx.passes.remove_channels import RemoveChannels
from obs_onnx.runtimes import Runtime, Session
from obs_onnx.timing import quick
from obs_onnx.walk import Values, every_value

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
    """

    target: Runtime
    local: Runtime
    sample: Values
    cache: LatencyCache
    timed: int = 0
    asked: int = 0
    _overhead: float | None = field(default=None, init=False)

    def times(
        self, model: ir.Model, names: Collection[str] | None = None, again: bool = False
    ) -> dict[str, float]:
        """Milliseconds of each block of a model by name, of all or of those in ``names``.

        What a run costs without any work is taken off. With ``again`` known blocks are timed once more, and
        the shorter time counts: other work on a machine only ever adds to it.
        """
        blocks = [block for block in cut_blocks(model) if names is None or block.name in names]
        values = every_value(self.local, model, self.sample)
        found = {}
        for block in blocks:
            if not block.outputs:
                continue
            part = block.model(model)
            feed = {str(value.name): values[str(value.name)] for value in part.graph.inputs}
            key = signature(part, feed)
            known = self.cache.get(key)
            self.asked += 1
            if known is None or again:
                now = quick(self._session(part, feed), feed, _SECONDS)
                known = now if known is None else min(now, known)
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
