"""Bodies of control flow: copies of them, their shapes, and nodes nobody needs."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_ir.traversal import RecursiveGraphIterator

from obs_onnx.passes.graph.emitter import Emitter
from obs_onnx.passes.graph.scopes import bodies

__all__ = ["copy_body", "drop_dead_nodes", "infer_body", "remove_unused_nodes"]

_ANY = 10  # version of the IR of a model that is made for the sake of a pass


def copy_body(emitter: Emitter, body: ir.Graph) -> ir.Graph:
    """A copy with fresh names that reads the same values of outer graphs; tensors are shared."""
    copy = body.clone(allow_outer_scope_values=True)
    graphs = [copy, *copy.subgraphs()]
    for graph in graphs:
        graph.opset_imports.update(emitter.model.graph.opset_imports)
        held = set(graph.initializers.values())
        for value in graph.inputs:
            if value not in held:
                value.name = emitter.names.fresh(str(value.name))
    for node in RecursiveGraphIterator(copy):
        node.name = emitter.names.fresh(str(node.name))
        for output in node.outputs:
            output.name = emitter.names.fresh(str(output.name)) if output.name else output.name
    return copy


def infer_body(emitter: Emitter, body: ir.Graph) -> None:
    """Add the types and shapes of the values of ``body`` that follow from those of its inputs."""
    inside = emitter.to("", body)
    for node in body:
        if node.domain == "" and not any(True for _ in bodies(node)):
            before = [output.shape for output in node.outputs]
            inside.infer(node)
            for output, shape in zip(node.outputs, before, strict=True):
                output.shape = _merged(output.shape, shape)


def _merged(new: ir.Shape | None, old: ir.Shape | None) -> ir.Shape | None:
    if new is None or old is None or len(new) != len(old):
        return old if new is None else new
    return ir.Shape(
        [n if isinstance(n, int) or not isinstance(o, int) else o for n, o in zip(new, old, strict=True)]
    )


def drop_dead_nodes(body: ir.Graph) -> None:
    """Remove the nodes and initializers of ``body`` on which no output of it depends."""
    remove_unused_nodes(ir.Model(body, ir_version=_ANY))


def _has_state(node: ir.Node) -> bool:
    """Whether an operator continues a state that goes in: an input that its schema calls past, as in
    ``past_key``."""
    if not onnx.defs.has(node.op_type, node.domain):
        return False
    given = zip(node.inputs, onnx.defs.get_schema(node.op_type, node.domain).inputs, strict=False)
    return any(value is not None and formal.name.startswith("past") for value, formal in given)


def remove_unused_nodes(model: ir.Model) -> None:
    """Remove the nodes and initializers of ``model`` on which no output of it depends.

    :class:`onnx_ir.passes.common.RemoveUnusedNodesPass` drops absent inputs at the end of a node, too. They
    are put back where its operator has to have them: a Loop without a condition. It also drops outputs that
    nobody reads, which an operator with a state has to have: runtimes refuse one that goes in and does not
    come out.
    """
    states = {
        node: [(value.name, value.type) for value in node.outputs]
        for node in RecursiveGraphIterator(model.graph)
        if _has_state(node)
    }
    before = {node: len(node.inputs) for node in RecursiveGraphIterator(model.graph)}
    RemoveUnusedNodesPass()(model)
    for node, outputs in states.items():
        if node.graph is not None:
            node.resize_outputs(len(outputs))
            for value, (name, kind) in zip(node.outputs, outputs, strict=True):
                value.name, value.type = name, kind
    for node in RecursiveGraphIterator(model.graph):
        if len(node.inputs) < before[node] and onnx.defs.has(node.op_type, node.domain):
            least = onnx.defs.get_schema(node.op_type, node.domain).min_input
            if len(node.inputs) < least:
                node.resize_inputs(min(least, before[node]))
