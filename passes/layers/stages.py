"""Cut a graph at its layers, so that each layer can be solved on what the layers before it really give.

The layers are put into *stages*: a layer joins the current stage unless its input depends on a layer of
that stage. At the boundary of a stage everything that does not depend on unsolved layers has been
computed; the values that the rest of the graph still needs are *live*. A segment leads from the live
values of one boundary to those of the next; a suffix leads from a layer's output to the graph's outputs.

At a join the shallow branch comes first (a skip connection is known before the last layer of the deep
branch is solved), which lets that layer correct the skip's error too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from obs_onnx.passes.graph.scopes import reads
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.ops import lookup

__all__ = ["Plan", "Stage", "plan_stages"]


@dataclass(frozen=True)
class Stage:
    """Layers that are solved together.

    Attributes:
        layers: none depends on another one.
        live: names of the values that are known before the stage and needed by it or after it.
        skips: for each use's ``y`` the live values that a chain of additions puts on top of it before
            anything else reads the sum; their error can be corrected by the layer.
    """

    layers: tuple[Layer, ...]
    live: tuple[str, ...]
    skips: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Plan:
    """All stages in order, and the names of the graph's outputs (the last boundary)."""

    stages: tuple[Stage, ...]
    outputs: tuple[str, ...]

    def boundary(self, index: int) -> tuple[str, ...]:
        """Names of the live values before stage ``index``; the outputs after the last one."""
        return self.stages[index].live if index < len(self.stages) else self.outputs


def _shallow_first(graph: ir.Graph, weighted: set[ir.Node]) -> list[ir.Node]:
    """Topological order in which the inputs of a node are visited by rising number of layers above them."""
    depth: dict[ir.Node, int] = {}
    read = {node: reads(node) for node in graph}
    for node in graph:
        above = (depth[producer] for value in read[node] if (producer := value.producer()) in depth)
        depth[node] = max(above, default=0) + (node in weighted)
    order: list[ir.Node] = []
    seen: set[ir.Node] = set()
    for output in graph.outputs:
        stack = [(producer, False)] if (producer := output.producer()) is not None else []
        while stack:
            node, expanded = stack.pop()
            if expanded:
                order.append(node)
                continue
            if node in seen:
                continue
            seen.add(node)
            stack.append((node, True))
            above_nodes = {p for value in read[node] if (p := value.producer()) is not None and p in depth}
            pending = sorted(above_nodes - seen, key=lambda p: (depth[p], p.name or ""), reverse=True)
            stack.extend((p, False) for p in pending)
    return order


def _skips(value: ir.Value, live: set[str]) -> tuple[str, ...]:
    """Live values that a chain of additions puts on top of ``value`` before anything else reads it."""
    found: list[str] = []
    while not value.is_graph_output() and len(uses := value.uses()) == 1:
        node, position = next(iter(uses))
        if node.op_type != "Add" or node.domain != "" or node.graph is not value.graph:
            break
        other = node.inputs[1 - position]
        if other is None or other is value:
            break
        if not other.is_initializer():
            if other.name not in live:
                break
            found.append(str(other.name))
        value = node.outputs[0]
    return tuple(found)


def _constants(order: Iterable[ir.Node]) -> set[ir.Value]:
    """Values that are computed from initializers alone: weights that are stored as integers, for example."""
    found: set[ir.Value] = set()
    for node in order:
        read = reads(node)
        constant = all(value.is_initializer() or value in found for value in read)
        if (
            read
            and constant
            and not lookup(node).random
            and not any(y.is_graph_output() for y in node.outputs)
        ):
            found.update(node.outputs)
    return found


def plan_stages(model: ir.Model, layers: Iterable[Layer]) -> Plan:
    """Stages of the given layers, in the order in which they have to be solved.

    A layer whose weight is used by several nodes belongs to the stage of its first use.

    Args:
        model: canonical model; main graph only, layers inside bodies are not looked at.
        layers: in any order.
    """
    graph = model.graph
    by_name = {use.node: layer for layer in layers for use in layer.uses}
    layer_of = {node: by_name[node.name] for node in graph if node.name in by_name}
    order = _shallow_first(graph, set(layer_of))
    first = dict.fromkeys(layer_of[node].name for node in order if node in layer_of)
    bits = {name: 1 << index for index, name in enumerate(first)}

    depends: dict[ir.Value, int] = {}
    node_mask: dict[ir.Node, int] = {}
    stages: list[list[Layer]] = []
    current = placed = 0
    for node in order:
        mask = 0
        for value in reads(node):
            mask |= depends.get(value, 0)
        if node in layer_of:
            layer = layer_of[node]
            bit = bits[layer.name]
            if not placed & bit:
                if mask & current or not stages:
                    stages.append([])
                    current = 0
                stages[-1].append(layer)
                current |= bit
                placed |= bit
            mask |= bit
        node_mask[node] = mask
        depends.update(dict.fromkeys(node.outputs, mask))

    values = {str(value.name): value for node in order for value in node.outputs}
    fixed = _constants(order)
    built: list[Stage] = []
    for index, members in enumerate(stages):
        unsolved = sum(bits[layer.name] for stage in stages[index:] for layer in stage)
        rest = [node for node in order if node_mask[node] & unsolved]
        needed = [value for node in rest for value in reads(node)] + list(graph.outputs)
        live = dict.fromkeys(
            str(value.name)
            for value in needed
            if not depends.get(value, 0) & unsolved and not value.is_initializer() and value not in fixed
        )
        ys = [use.y for layer in members for use in layer.uses if use.y in values]
        skips = {y: _skips(values[y], set(live)) for y in ys}
        built.append(Stage(tuple(members), tuple(live), skips))
    return Plan(tuple(built), tuple(str(value.name) for value in graph.outputs))
