"""Constants become initializers, and views of constants become constants.

(``LiftConstantsToInitializersPass`` of onnx_ir fails at attributes of a wrong type, lets the copy of a model
rename tensors that it shares with the original, and knows no inputs for initializers, as IR version 3 wants.)
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.names import add_initializer, named, remove_if_unused
from obs_onnx.passes.ops import key, lookup
from obs_onnx.passes.shapes.shape_arithmetic import MOVES

__all__ = ["FoldConstantViews", "LiftConstants"]


class LiftConstants(ir.passes.InPlacePass):
    """Turn Constant nodes into initializers of the same name and graph.

    1. Every form is lifted: ``value`` as it is, numbers and strings as tensors.
    2. A constant that is an output of its graph stays a node, because initializers are no node outputs.
    3. Constants of subgraphs stay before IR version 4, which has no initializers beside inputs.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        count = 0
        for node in list(RecursiveGraphIterator(model.graph)):
            if node.op_type != "Constant" or node.domain != "" or node.outputs[0].is_graph_output():  # 2.
                continue
            with node_facts.inside(node):
                graph, tensor = node.graph, _tensor_of(node)
            if graph is None or tensor is None or (graph is not model.graph and model.ir_version < 4):  # 3.
                continue
            output = node.outputs[0]
            value = ir.Value(
                name=output.name,
                shape=ir.Shape(tensor.shape.numpy()),
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
                metadata_props=dict(output.metadata_props),
            )
            output.replace_all_uses_with(value)
            graph.remove(node, safe=True)
            if graph is model.graph:
                add_initializer(model, value)
            else:
                graph.register_initializer(value)
            count += 1
        return ir.passes.PassResult(model, modified=bool(count))


def _tensor_of(node: ir.Node) -> ir.TensorProtocol | None:
    name = str(node.outputs[0].name)
    if len(node.attributes) != 1:
        return None
    attribute = next(iter(node.attributes.values()))
    if attribute.is_ref():
        return None
    kind, value = attribute.name, attribute.value
    if kind == "value":
        return named(attribute.as_tensor(), name)
    if kind in ("value_float", "value_floats"):
        numbers = attribute.as_float() if kind == "value_float" else attribute.as_floats()
        return ir.Tensor(np.array(numbers, dtype=np.float32), name=name)
    if kind in ("value_int", "value_ints"):
        counts = attribute.as_int() if kind == "value_int" else attribute.as_ints()
        return ir.Tensor(np.array(counts, dtype=np.int64), name=name)
    if kind in ("value_string", "value_strings"):
        texts = [value] if kind == "value_string" else list(value)
        data = [text.encode() if isinstance(text, str) else bytes(text) for text in texts]
        return ir.StringTensor(data, shape=ir.Shape([] if kind == "value_string" else [len(data)]), name=name)
    return None


class FoldConstantViews(ir.passes.InPlacePass):
    """Apply Identity, Cast, Transpose, Reshape, Flatten, Squeeze, Unsqueeze to the initializers behind them.

    1. Users of an Identity use its initializer.
    2. The initializer keeps its name and takes the new shape; no data is copied.
    3. Several equal views of one initializer become that one initializer.
    4. An initializer that is also used otherwise (tied weights), or is an output of the model, stays.
    5. Only casts from one float type to another are applied.

    DequantizeLinear is no view.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        count = 0
        for node in list(model.graph):
            source = node_facts.input_of(node, 0)
            if node.graph is None or not (lookup(node).view or key(node) in ("Cast", "Transpose")):
                continue
            if source is None or node_facts.constant(node, 0) is None or node.outputs[0].is_graph_output():
                continue
            if node.op_type == "Identity":  # 1.
                _drop(model, node, source)
                count += 1
                continue
            users = list({usage.node: None for usage in source.uses()})
            if source.is_graph_output() or any(not _same_view(user, node) for user in users):  # 4.
                continue
            viewed = _viewed(node)
            if viewed is None or any(user.outputs[0].is_graph_output() for user in users):
                continue
            for user in users:  # 3.
                _drop(model, user, source)
            source.const_value = viewed  # 2.
            source.shape, source.type = ir.Shape(viewed.shape.numpy()), ir.TensorType(viewed.dtype)
            count += 1
        return ir.passes.PassResult(model, modified=bool(count))


def _drop(model: ir.Model, node: ir.Node, source: ir.Value) -> None:
    """Let ``source`` stand for the output of ``node``."""
    parameters = node.inputs[1:]
    node.outputs[0].replace_all_uses_with(source)
    model.graph.remove(node, safe=True)
    for parameter in parameters:
        remove_if_unused(model, parameter)


def _same_view(node: ir.Node, other: ir.Node) -> bool:
    if (key(node), len(node.inputs)) != (key(other), len(other.inputs)):
        return False
    if node.graph is not other.graph:
        return False
    if {a.name: a.value for a in node.attributes.values()} != {
        a.name: a.value for a in other.attributes.values()
    }:
        return False
    if node.inputs[0] is not other.inputs[0]:
        return False
    for index in range(1, len(node.inputs)):
        mine, theirs = node_facts.array(node, index), node_facts.array(other, index)
        if mine is None or theirs is None or not np.array_equal(mine, theirs):
            return False
    return True


def _viewed(node: ir.Node) -> ir.TensorProtocol | None:
    """The initializer as ``node`` shows it; None when that cannot be, which shape inference then reports."""
    try:
        return _apply(node)
    except Exception:  # a node may say anything, and numpy has many ways to refuse it
        return None


def _apply(node: ir.Node) -> ir.TensorProtocol | None:
    tensor = node_facts.constant(node, 0)
    assert tensor is not None
    if tensor.dtype == ir.DataType.STRING or tensor.dtype.bitwidth < 8:
        return None
    if node.op_type == "Cast":
        target = ir.DataType(node_facts.int_attribute(node, "to"))
        if not (node_facts.is_float(tensor) and target in node_facts.FLOATS):  # 5.
            return None
        with np.errstate(over="ignore"):
            return ir.Tensor(tensor.numpy().astype(target.numpy()), dtype=target, name=tensor.name)
    inputs = [node_facts.array(node, index) for index in range(len(node.inputs))]
    if any(value is not None and array is None for value, array in zip(node.inputs, inputs, strict=True)):
        return None
    return ir.Tensor(MOVES[node.op_type](node, *inputs), dtype=tensor.dtype, name=tensor.name)
