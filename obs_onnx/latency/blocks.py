"""Models of given widths, cut into blocks, each timed once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from obs_onnx.data.feeds import Feed
from obs_onnx.io.onnx_file import serialize
from obs_onnx.latency.benchmark import quick
from obs_onnx.latency.cache import LatencyCache, signature
from obs_onnx.passes.canonical.plainer.written_form import in_integers
from obs_onnx.passes.channels.coupling import Coupling
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.costs.blocks import cut_blocks
from obs_onnx.passes.errors import DataError, ModelError
from obs_onnx.runtimes import Runtime, Session
from obs_onnx.runtimes.sessions.partial_run import Values, every_value

__all__ = ["MOST_TIMINGS", "BlockClock", "groups_of_blocks", "narrowed"]

MOST_TIMINGS = 3  # of one block, in all runs together
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
        left_out: why a block cannot be timed alone, by its name; it is not tried again.
    """

    target: Runtime
    local: Runtime
    sample: Values
    cache: LatencyCache
    timed: int = 0
    asked: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    _overhead: float | None = field(default=None, init=False)

    def signatures(
        self, model: ir.Model, names: Collection[str] | None = None, again: bool = False
    ) -> dict[str, str]:
        """Signature of each block of a model by name, of all or of those in ``names``; all are timed then.

        With ``again`` known blocks are timed once more, and the shorter time counts (other work on a machine
        only ever adds to it), but no block ever more than :data:`MOST_TIMINGS` times.
        """
        values = every_value(self.local, model, self.sample)
        found = {}
        for block in cut_blocks(model):
            if not block.outputs or block.name in self.left_out:
                continue
            if names is not None and block.name not in names:
                continue
            part = in_integers(block.model(model))
            if unknown := [str(v.name) for v in part.graph.inputs if str(v.name) not in values]:
                self.left_out[block.name] = f"{unknown[0]} is no tensor"
                continue
            key = signature(part, values)
            timings = self.cache.timings(key)
            self.asked += 1
            if timings == 0 or (again and timings < MOST_TIMINGS):
                feed = {str(value.name): values[str(value.name)] for value in part.graph.inputs}
                try:
                    self.cache.put(key, quick(self._session(part, feed), feed, _SECONDS))
                except (ModelError, DataError) as error:
                    self.left_out[block.name] = str(error)
                    continue
                self.timed += 1
            found[block.name] = key
        return found

    def milliseconds(self, key: str) -> float:
        """Of a block that was timed; what a run costs without any work is taken off."""
        known = self.cache.get(key)
        assert known is not None
        return max(known - self.overhead, 0.0)

    def open(self, model: ir.Model) -> Session:
        """A session of a whole model where it is timed."""
        return self.target.session(serialize(in_integers(model)))

    @property
    def overhead(self) -> float:
        """Milliseconds of a run that does nothing; 0 where the target takes no such model."""
        if self._overhead is None:
            x = ir.Value(name="x", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))
            node = ir.node("Neg", [x])
            node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = "y", x.shape, x.type
            graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 17}, name="nothing")
            try:
                session = self.target.session(serialize(ir.Model(graph, ir_version=8)))
                self._overhead = quick(session, {"x": np.zeros(1, np.float32)}, _SECONDS)
            except (ModelError, DataError):
                self._overhead = 0.0
        return self._overhead

    def _session(self, part: ir.Model, feed: Feed) -> Session:
        for value in part.graph.inputs:  # inference on parts may have missed types and ranks
            array = feed[str(value.name)]
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            value.shape = ir.Shape(array.shape)
        return self.target.session(serialize(part))
