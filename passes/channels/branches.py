"""Branches that can be left out for good: layers whose results are only added to values of the same shape.

If such a layer gives zeros, the sum is its other operand, and all that only the layer had read is dead: in
a residual network the whole inside of a block. A group of channels can go altogether if it lies in what is
dead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import onnx_ir as ir

from obs_onnx.passes.channels.coupling import Coupling, Group
from obs_onnx.passes.channels.places import consumed
from obs_onnx.passes.graph.bodies import remove_unused_nodes
from obs_onnx.passes.graph.scopes import reads
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.ops import key, lookup

__all__ = ["Branch", "LeaveOut", "find_branches"]


@dataclass(frozen=True)
class Branch:
    """What goes with a whole group.

    Attributes:
        layers: names of the weights that read the group and have to be zero, with their biases.
        dead: names of all nodes that are gone then.
    """

    layers: tuple[str, ...]
    dead: frozenset[str]


def find_branches(coupling: Coupling, layers: Iterable[Layer]) -> dict[int, Branch]:
    """Groups that can go altogether, by id.

    Args:
        coupling: of a prepared model.
        layers: of the same model.
    """
    layers = list(layers)
    adds = {layer.name: found for layer in layers if (found := _adds(coupling, layer)) is not None}
    branches = {}
    for group in coupling.groups:
        reading = [layer for layer in layers if layer.name in adds and _reads_only(coupling, group, layer)]
        skipped = {y: other for layer in reading for y, other in adds[layer.name].items()}
        dead = _dead(coupling, skipped) if reading else set()
        own = {site.initializer for site in group.sites}
        if reading and not any(
            value is not None and value.name in own
            for node in coupling.model.graph
            if node not in dead
            for value in node.inputs
        ):
            names = frozenset(str(node.name) for node in dead)
            branches[group.id] = Branch(tuple(layer.name for layer in reading), names)
    return branches


class LeaveOut(ir.passes.InPlacePass):
    """Remove layers that give zeros.

    1. What they are added to takes the place of the sum.
    2. An activation that was applied to that value already goes.
    3. So does all that nothing reads any more.

    Args:
        layers: names of their weights, which have to be zero, as their biases.

    Raises:
        ValueError: a result is read by something else than a sum of equal shapes.
    """

    def __init__(self, layers: Collection[str]) -> None:
        super().__init__()
        self.layers = frozenset(layers)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        ys = {use.y for layer in find_layers(model)[0] if layer.name in self.layers for use in layer.uses}
        for node in list(model.graph):
            for value in node.outputs:
                if value.name not in ys:
                    continue
                if (found := _sum_of(value)) is None:
                    raise ValueError(f"{value.name} is not only added to another value")
                add, other = found  # 1.
                add.outputs[0].replace_all_uses_with(other)
                for user in other.consumers():  # 2.
                    if _again(user, other.producer()) and not user.outputs[0].is_graph_output():
                        user.outputs[0].replace_all_uses_with(other)
        remove_unused_nodes(model)  # 3.
        return ir.passes.PassResult(model, modified=bool(ys))


def _sum_of(y: ir.Value) -> tuple[ir.Node, ir.Value] | None:
    """The Add that alone reads ``y``, and its other operand."""
    uses = list(y.uses())
    if len(uses) != 1 or y.is_graph_output():
        return None
    node, place = uses[0].node, uses[0].idx
    if node.op_type != "Add" or node.domain != "" or node.graph is not y.graph:
        return None
    other = node.inputs[1 - place]
    if other is None or other is y or other.is_initializer() or node.outputs[0].is_graph_output():
        return None
    return node, other


def _again(node: ir.Node, before: ir.Node | None) -> bool:
    """Whether an activation follows itself without any effect."""
    return (
        before is not None
        and lookup(node).idempotent
        and key(node) == key(before)
        and list(node.inputs[1:]) == list(before.inputs[1:])
        and node.attributes == before.attributes
    )


def _adds(coupling: Coupling, layer: Layer) -> dict[str, ir.Value] | None:
    """For each result of a layer the value it is added to, if there is nothing else to it."""
    shapes, found = coupling.graph.concrete.shapes, {}
    for use in layer.uses:
        y = coupling.named(use.y)
        added = _sum_of(y)
        if added is None or shapes.get(y) is None or shapes.get(y) != shapes.get(added[1]):
            return None
        found[use.y] = added[1]
    return found


def _reads_only(coupling: Coupling, group: Group, layer: Layer) -> bool:
    """Whether every input of a layer goes with channels of the group."""
    columns = consumed(coupling, group, layer)
    return columns is not None and bool((columns.sum(axis=0) > 0).all())


def _dead(coupling: Coupling, skipped: dict[str, ir.Value]) -> set[ir.Node]:
    """Nodes that no output needs when these values are zero; sums pass their other operands on.

    Whoever reads a cache gives the next one.
    """
    graph = coupling.model.graph
    living: set[ir.Node] = set()
    stack = [value.producer() for value in graph.outputs]
    stack += [node for value in graph.inputs if value.name in coupling.caches for node in value.consumers()]
    while stack:
        node = stack.pop()
        if node is None or node in living:
            continue
        living.add(node)
        stack += [v.producer() for v in reads(node) if v.name not in skipped]
    return {node for node in graph if node not in living}
