"""How much of a model lies behind each boundary of its stages, and what is carried across it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from obs_onnx.evaluation.run_cost import RunCost
from obs_onnx.passes.graph.scopes import reads
from obs_onnx.passes.layers.stages import Plan

__all__ = ["Walk"]

_MACS_PER_BYTE = 10  # that take about as long as a byte of a value that is computed


@dataclass(frozen=True)
class Walk:
    """A model, boundary by boundary, from the one before the first stage (number -1) on.

    Attributes:
        left: share of a run of the model that lies behind each boundary.
        nodes: share of its nodes.
        carried: bytes that are live there, of a sample.
    """

    left: Sequence[float]
    nodes: Sequence[float]
    carried: Sequence[int]

    @classmethod
    def of(cls, model: ir.Model, plan: Plan, cost: RunCost) -> Walk:
        """Of a model whose run costs so much."""
        weight = {node: _weight(node, cost) for node in model.graph}
        whole, left = sum(weight.values()) or 1.0, sum(weight.values())
        values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
        done = set[ir.Node]()
        shares, nodes, carried = (
            [1.0],
            [1.0],
            [sum(cost.sizes.get(str(x.name), 0) for x in model.graph.inputs)],
        )
        for index in range(len(plan.stages)):
            names = plan.boundary(index)
            ahead = [node for name in names if name in values and (node := values[name].producer())]
            while ahead:
                node = ahead.pop()
                if node not in done and node in weight:
                    done.add(node)
                    left -= weight[node]
                    ahead += [one for value in reads(node) if (one := value.producer()) is not None]
            shares.append(max(left, 0.0) / whole)
            nodes.append(1 - len(done) / max(len(weight), 1))
            carried.append(sum(cost.sizes.get(name, 0) for name in names))
        return cls(shares, nodes, carried)

    def behind(self, boundary: int) -> float:
        """Share of a run of the model that lies behind a boundary."""
        return self.left[boundary + 1]

    def nodes_behind(self, boundary: int) -> float:
        """Share of its nodes."""
        return self.nodes[boundary + 1]

    @property
    def crossed(self) -> float:
        """Bytes of a sample that are carried across all boundaries."""
        return float(sum(self.carried))


def _weight(node: ir.Node, cost: RunCost) -> float:
    """Of a node in a run, in multiply-accumulates."""
    moved = sum(cost.sizes.get(str(value.name), 0) for value in node.outputs)
    return cost.nodes.get(str(node.name), 0) + _MACS_PER_BYTE * moved
