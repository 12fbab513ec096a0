"""What a run keeps and moves, as a function of how many channels each group keeps.

    memory     bytes of all weights and of all values that are computed
    bandwidth  bytes that the nodes read (weights and values) and write, each node by itself

Costs for the regularisers of Molchanov et al. 2017 (arXiv 1611.06440, section 2.2). Both are sums over
values, so that every channel has a share of its own; the peak of a run, which has not, is in
:mod:`obs_onnx.passes.costs.memory`. Nodes are not fused, and views count like copies. What happens inside the
bodies of If, Loop and Scan is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from obs_onnx.passes.channels.coupling import Coupling
from obs_onnx.passes.costs.polynomials import Polynomial, Terms, add
from obs_onnx.passes.costs.sizes import Sizes
from obs_onnx.passes.graph.inputs import real_inputs
from obs_onnx.passes.graph.scopes import reads

__all__ = ["Traffic"]


class Traffic:
    """Memory and bandwidth of one model.

    Args:
        coupling: of the model.
        sizes: bytes of each value of one dense run by name, weights included or not: for example of one
            sample, whatever the number of samples of the coupling. A value that is missing counts as nothing.

    Attributes:
        memory, bandwidth: costs in bytes, see the module.
    """

    def __init__(self, coupling: Coupling, sizes: Mapping[str, int]) -> None:
        self._lengths, self._given = Sizes(coupling), sizes
        graph, full = coupling.model.graph, self._lengths.full
        memory: Terms = {}
        bandwidth: Terms = {}
        computed = [value for node in graph for value in node.outputs]
        for value in (*real_inputs(coupling.model), *graph.initializers.values(), *computed):
            add(memory, self._bytes(value))
        for node in graph:
            for value in (*dict.fromkeys(reads(node)), *node.outputs):
                add(bandwidth, self._bytes(value))
        self.memory, self.bandwidth = Polynomial(memory, full), Polynomial(bandwidth, full)

    def _bytes(self, value: ir.Value) -> Terms:
        """Bytes of a value: those of the dense run, in proportion to its elements."""
        dense = self._given.get(str(value.name), 0)
        if value.const_value is not None:
            dense = value.const_value.nbytes
        return self._lengths.scaled(value, dense)
