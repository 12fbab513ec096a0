"""Cut a graph into blocks with few weights each, at places that few values cross.

What lies between two cuts is a model of its own, so a model that does not fit in memory can be run block by
block: of its activations only those at one cut are held, of its weights only those of one block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from obs_onnx.passes.graph.scopes import bodies, reads

__all__ = ["Block", "cut_into_blocks"]

_LEAST = 0.5  # of the weights that a block may have: where its end is looked for


@dataclass(frozen=True)
class Block:
    """Consecutive nodes of a graph.

    Attributes:
        given: names of the values that they read from before.
        results: names of their values that are read behind, or are outputs of the graph.
        nodes: how many they are.
    """

    given: tuple[str, ...]
    results: tuple[str, ...]
    nodes: int


def cut_into_blocks(graph: ir.Graph, most: int) -> tuple[Block, ...]:
    """Blocks in the order of the graph's nodes; nodes that nothing needs may be in none.

    Args:
        graph: sorted; its outputs are computed, or are inputs or initializers of it.
        most: bytes of weights of a block that has several nodes.
    """
    nodes = list(graph)
    outputs = set(graph.outputs)
    last = {value: len(nodes) for value in outputs}
    for place, node in enumerate(nodes):
        for value in reads(node):
            last[value] = max(last.get(value, -1), place)
    sizes = [_weights(node) for node in nodes]
    width = _widths(nodes, last)
    found: list[Block] = []
    start = 0
    while start < len(nodes):
        stop = _end(sizes, width, start, most)
        block = _block(nodes[start:stop], last, stop, outputs)
        if block.results:
            found.append(block)
        start = stop
    return tuple(found)


def _weights(node: ir.Node) -> dict[ir.Value | ir.Graph, int]:
    """Bytes of the constants that a node reads, those in its bodies included."""
    held: dict[ir.Value | ir.Graph, int] = {
        value: value.const_value.nbytes
        for value in reads(node)
        if value.is_initializer() and value.const_value is not None
    }
    for body in bodies(node):
        inner = [
            value.const_value for graph in (body, *body.subgraphs()) for value in graph.initializers.values()
        ]
        held[body] = sum(tensor.nbytes for tensor in inner if tensor is not None)
    return held


def _widths(nodes: Sequence[ir.Node], last: dict[ir.Value, int]) -> list[int | None]:
    """Number of values that cross the place behind each node; None where one of them is no tensor."""
    live: set[ir.Value] = set()
    found: list[int | None] = []
    for place, node in enumerate(nodes):
        live.update(value for value in node.outputs if last.get(value, -1) > place)
        live -= {value for value in reads(node) if last[value] <= place}
        tensors = all(value.type is None or isinstance(value.type, ir.TensorType) for value in live)
        found.append(len(live) if tensors else None)
    return found


def _end(
    sizes: Sequence[dict[ir.Value | ir.Graph, int]], width: Sequence[int | None], start: int, most: int
) -> int:
    """Where a block that begins at ``start`` ends: at the narrowest place of its second half, or before."""
    held: dict[ir.Value | ir.Graph, int] = {}
    fallback: int | None = None
    best: tuple[int, int] | None = None
    for place in range(start, len(sizes)):
        held.update(sizes[place])
        total = sum(held.values())
        if total > most and (best or fallback):
            return best[1] if best else fallback or len(sizes)
        crossing = width[place]
        if crossing is not None and total < _LEAST * most:
            fallback = place + 1
        elif crossing is not None and (best is None or crossing <= best[0]):
            best = crossing, place + 1
    return len(sizes)


def _block(nodes: Iterable[ir.Node], last: dict[ir.Value, int], stop: int, outputs: set[ir.Value]) -> Block:
    own: dict[ir.Value, None] = {}
    given: dict[str, None] = {}
    count = 0
    for node in nodes:
        count += 1
        given.update(
            (str(value.name), None)
            for value in reads(node)
            if value not in own and not value.is_initializer()
        )
        own.update(dict.fromkeys(node.outputs))
    results = tuple(str(value.name) for value in own if last.get(value, -1) >= stop or value in outputs)
    return Block(tuple(given), results, count)
