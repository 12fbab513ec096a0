"""What a node reads: its inputs, and what its bodies take from the graphs around them.

:func:`onnx_ir.analysis.analyze_implicit_usage` answers the second part for a whole model only: a body by
itself is an error to it, outputs do not count, and its sets have no order, which names and sums need.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from obs_onnx.passes.graph.names import Names

__all__ = ["bodies", "captured", "reads", "return_by_identity"]


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs among the attributes of ``node``."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def captured(node: ir.Node) -> list[ir.Value]:
    """Values from outside of the bodies of ``node`` that these read or return, each once."""
    found: dict[ir.Value, None] = {}
    for body in bodies(node):
        inside = (body, *body.subgraphs())
        read = [x for inner in body.all_nodes() for x in inner.inputs if x is not None]
        returned = [y for graph in inside for y in graph.outputs]
        found.update((x, None) for x in (*read, *returned) if _home(x) not in inside)
    return list(found)


def reads(node: ir.Node) -> list[ir.Value]:
    """The inputs that are there, and what the bodies of ``node`` take from outside."""
    return [*(x for x in node.inputs if x is not None), *captured(node)]


def return_by_identity(model: ir.Model) -> None:
    """Let bodies that return a value of an outer graph as it is return a copy of it.

    Files may say so by the name of the value alone. ONNX's checker and most runtimes refuse that.
    """
    _bind(model.graph, {}, Names(model))


def _bind(graph: ir.Graph, outer: Mapping[str, ir.Value], names: Names) -> None:
    values = (*graph.inputs, *graph.initializers.values(), *(y for node in graph for y in node.outputs))
    known = {**outer, **{str(value.name): value for value in values}}
    for node in graph:
        for body in bodies(node):
            for index, output in enumerate(body.outputs):
                own = output.producer() or output.is_graph_input() or output.is_initializer()
                if not own and (source := known.get(str(output.name))) is not None:
                    body.outputs[index] = _copy(body, source, output, names)
            _bind(body, known, names)


def _copy(body: ir.Graph, source: ir.Value, like: ir.Value, names: Names) -> ir.Value:
    name = names.fresh(f"{source.name}.returned")
    node = ir.node("Identity", [source], name=name)
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, like.type, like.shape
    body.append(node)
    return node.outputs[0]


def _home(value: ir.Value) -> ir.Graph | None:
    """The graph in which a value is computed or declared; an output belongs to the graph of its producer."""
    producer = value.producer()
    return value.graph if producer is None else producer.graph
