"""Inputs set for good: constants take their places, and all that follows from these alone is computed now."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import NameFixPass

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.bodies import remove_unused_nodes
from obs_onnx.passes.graph.names import add_initializer
from obs_onnx.passes.graph.scopes import bodies
from obs_onnx.passes.ops import key, lookup
from obs_onnx.passes.shapes.evaluate_nodes import evaluate_nodes

__all__ = ["FixInputs"]

_MOST = 1 << 20  # elements of a value that is computed


class FixInputs(ir.passes.InPlacePass):
    """Turn inputs into constants, and follow them.

    1. The input is one no more; its array is an initializer of its name.
    2. Nodes that read such constants and no other values are computed, unless the result is large, random, an
       output of the model, or cannot be computed.
    3. Of an If whose condition is known, the nodes of its branch take the place.
    4. What nothing reads any more goes.

    Args:
        arrays: by name of the input, of its type and a shape that it takes.

    Raises:
        KeyError: a name is none of an input.
    """

    def __init__(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        super().__init__()
        self.arrays = arrays

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on a ``model`` without functions and Constant nodes."""
        inputs = {str(value.name): value for value in model.graph.inputs}
        known: set[ir.Value] = set()
        for name, array in self.arrays.items():  # 1.
            model.graph.inputs.remove(inputs[name])
            known.add(_set(model, inputs[name], array))
        waiting = list(model.graph)
        while waiting:
            node = waiting.pop(0)
            if key(node) == "If" and (branch := _branch(node, known)) is not None:  # 3.
                waiting[:0] = _take_branch(model, node, branch)
            else:
                known.update(_computed(model, node, known))  # 2.
        remove_unused_nodes(model)  # 4.
        NameFixPass()(model)
        return ir.passes.PassResult(model, modified=bool(self.arrays))


def _set(model: ir.Model, value: ir.Value, array: NDArray[np.generic]) -> ir.Value:
    """An initializer of the name of ``value`` in its place."""
    name = str(value.name)
    tensor = ir.tensor(array, name=name)
    fixed = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    value.replace_all_uses_with(fixed)
    value.name = None
    add_initializer(model, fixed)
    return fixed


def _computed(model: ir.Model, node: ir.Node, known: set[ir.Value]) -> list[ir.Value]:
    """The results of a node as initializers, if it reads constants alone, among them known ones."""
    read = [value for value in node.inputs if value is not None]
    follows = any(value in known for value in read) and all(value.is_initializer() for value in read)
    if not follows or lookup(node).random or any(True for _ in bodies(node)):
        return []
    if any(value.is_graph_output() for value in node.outputs):
        return []
    feeds = {str(value.name): value.const_value.numpy() for value in read if value.const_value is not None}
    versions = {domain: int(version) for domain, version in model.opset_imports.items()}
    try:
        found = evaluate_nodes([ir.to_proto(node)], feeds, versions, _MOST)
    except Exception:  # the evaluator raises many kinds; the node stays as it is
        return []
    made = [_set(model, value, found[str(value.name)]) for value in node.outputs if value.name]
    model.graph.remove(node, safe=True)
    return made


def _branch(node: ir.Node, known: set[ir.Value]) -> ir.Graph | None:
    """The branch that is taken, where the condition is a known constant."""
    condition = node_facts.array(node, 0)
    if node.inputs[0] not in known or condition is None or condition.size != 1:
        return None
    return node.attributes["then_branch" if condition.reshape(-1)[0] else "else_branch"].as_graph()


def _take_branch(model: ir.Model, node: ir.Node, branch: ir.Graph) -> list[ir.Node]:
    """Put the nodes of a branch in the place of an If of the main graph; these nodes."""
    results, nodes = list(branch.outputs), list(branch)
    branch.outputs.clear()
    for value in list(branch.initializers.values()):
        del branch.initializers[str(value.name)]
        if str(value.name) in model.graph.initializers:
            value.name = f"{node.name}.{value.name}"
        add_initializer(model, value)
    branch.remove(nodes)
    model.graph.insert_before(node, nodes)
    for output, result in zip(node.outputs, results, strict=True):
        if output.is_graph_output():  # whose name stays
            copy = ir.node("Identity", [result], name=f"{node.name}.{output.name}")
            made = copy.outputs[0]
            made.name, made.type, made.shape = output.name, output.type, output.shape
            output.name = None
            model.graph.insert_before(node, copy)
            places = [i for i, one in enumerate(model.graph.outputs) if one is output]
            for place in places:
                model.graph.outputs[place] = made
            result = made
        output.replace_all_uses_with(result)
    for body in bodies(node):  # what is left reads nothing any more
        for one in body.all_nodes():
            for place in range(len(one.inputs)):
                one.replace_input_with(place, None)
    model.graph.remove(node, safe=True)
    return nodes
