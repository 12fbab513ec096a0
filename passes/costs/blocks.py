"""Cut a graph into small graphs that can be timed one by one: each heavy operator with what is fused to it.

Operators that multiply and accumulate begin a block. Every other node (activations, additions, pooling,
normalisation, reshaping) joins the last of the blocks that its inputs come from, as a runtime would fuse it;
what depends on the model's inputs alone joins the first block that reads it. Every node is in exactly one
block, and a block reads nothing from those after it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.scopes import reads
from obs_onnx.passes.ops import lookup
from obs_onnx.passes.ops.quantized.weights import held

__all__ = ["Block", "cut_blocks"]


@dataclass(frozen=True)
class Block:
    """Some nodes of a graph that are timed together.

    Attributes:
        name: of the node that began it; the same block of a smaller model has the same name.
        kind: what its latency depends on in general: operator, kernel, and whether it is depthwise.
        nodes: in topological order.
        inputs, outputs: names of the values that come in and go out; initializers do not count, and
            integers go between blocks where one turns them into numbers.
    """

    name: str
    kind: str
    nodes: tuple[ir.Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def model(self, whole: ir.Model) -> ir.Model:
        """The block as a model of its own (tensors are shared)."""
        return extract(whole, self.inputs, self.outputs)


def cut_blocks(model: ir.Model) -> list[Block]:
    """The blocks of the main graph of a canonical model, in the order of the nodes that begin them."""
    graph = model.graph
    nodes = list(graph)
    place = {node: number for number, node in enumerate(nodes)}
    begins = [node for node in nodes if _is_heavy(node)] or nodes[:1]
    owner: dict[ir.Node, ir.Node] = {node: node for node in begins}
    for node in nodes:
        above = [owner[p] for value in reads(node) if (p := value.producer()) in owner]
        if node not in owner and above:
            owner[node] = max(above, key=place.__getitem__)
    for node in reversed(nodes):
        if node not in owner:
            readers = [owner[user] for value in node.outputs for user, _ in value.uses() if user in owner]
            owner[node] = min(readers, key=place.__getitem__, default=begins[0])
    members: dict[ir.Node, list[ir.Node]] = {node: [] for node in begins}
    for node in nodes:
        members[owner[node]].append(node)
    read = {begin: _inputs(own) for begin, own in members.items()}
    needed = {value for values in read.values() for value in values}
    return [_block(begin, own, read[begin], needed) for begin, own in members.items()]


def _is_heavy(node: ir.Node) -> bool:
    return lookup(node).macs is not None


def _inputs(own: Sequence[ir.Node]) -> dict[ir.Value, None]:
    """What nodes read from outside: in place of numbers that are made of integers these integers.

    So a block has the conversion next to what computes in integers, and a runtime makes one of both.
    """
    inside = set(own)
    found = [
        value
        for node in own
        for value in reads(node)
        if value.producer() not in inside and (value.producer() is not None or not value.is_initializer())
    ]
    for value in found:
        made = value.producer()
        if made is not None and made.op_type == "DequantizeLinear":
            found += [one for one in made.inputs if one is not None and not one.is_initializer()]
    return {v: None for v in found if (made := v.producer()) is None or made.op_type != "DequantizeLinear"}


def _block(
    begin: ir.Node, own: Sequence[ir.Node], read: Iterable[ir.Value], needed: Container[ir.Value]
) -> Block:
    outputs = [value for node in own for value in node.outputs if value.is_graph_output() or value in needed]
    names = [tuple(str(value.name) for value in values) for values in (read, outputs)]
    return Block(str(begin.name), _kind(begin), tuple(own), *names)


def _kind(node: ir.Node) -> str:
    """Operator, kernel shape, stride, and whether each output reads a single channel."""
    parts = [node.op_type]
    weight = held(node, 1)
    if weight is not None:
        shape = weight.shape
        parts += ["x".join(map(str, shape[2:]))] if len(shape) > 2 else ["constant"]
        if "strides" in node.attributes:
            parts.append("/".join(map(str, node.attributes.get_ints("strides"))))
        if len(shape) > 2 and shape[1] == 1 and node.attributes.get_int("group", 1) > 1:
            parts.append("depthwise")
    return " ".join(part for part in parts if part)
