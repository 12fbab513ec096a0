"""Weights that a graph computes from constants (standardized, normalized, concatenated) are computed once.

Weight standardization, weight normalization and the like leave chains of operators between the stored tensors
and the convolution that uses them; what arrives there is as constant as a stored weight.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.names import Names, remove_if_unused
from obs_onnx.passes.graph.usage import is_used
from obs_onnx.passes.ops import lookup
from obs_onnx.passes.shapes.evaluate_nodes import evaluate_nodes

__all__ = ["FoldWeightExpressions"]

_LARGE = 16  # elements; smaller constants may serve several expressions
_ROOM, _GROWTH = 1 << 20, 4  # elements on the way to a weight: so many, and so many times what is stored


class FoldWeightExpressions(ir.passes.InPlacePass):
    """Evaluate chains of standard operators that lead from initializers alone to a weight or a bias.

    1. The weight is named after the value it replaces; nodes and initializers that nothing else needs go.
    2. Tied weights stay: every large initializer behind the weight must serve nothing but this weight.
    3. What is stored in integers of at most 16 bits stays so, random weights random.
    4. An operand is only a weight when the other operand depends on the model's inputs.
    5. Shape, Size and CastLike only need to know a shape and a type; they tie nothing.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        names, count = Names(model), 0
        for node in list(model.graph):
            op = lookup(node)
            for index in (*op.weights, *op.biases):
                if index < len(node.inputs):
                    with node_facts.inside(node):
                        count += _fold(model, node, index, names)
        return ir.passes.PassResult(model, modified=bool(count))


def _fold(model: ir.Model, node: ir.Node, index: int, names: Names) -> bool:
    weight = node.inputs[index]
    if weight is None or weight.producer() is None or weight.is_graph_output():
        return False
    cone = node_facts.constant_cone(weight)
    weights = lookup(node).weights
    others = [node.inputs[other] for other in weights if other != index and index in weights]
    if not cone or any(node_facts.constant_cone(value) is not None for value in others):  # 4.
        return False
    if not all(_foldable(member) for member in cone) or not _exclusive(weight, cone):  # 2. 3.
        return False
    stored = {v for member in cone for v in node_facts.data_inputs(member) if v.producer() is None}
    if any(_is_narrow(value) for value in stored):  # 3.
        return False
    tensor = _evaluate(model, weight, cone)
    if tensor is None or not node_facts.is_float(tensor):
        return False
    if tensor.size > sum(v.const_value.size for v in stored if v.const_value is not None):
        return False
    name = str(weight.name)
    weight.replace_all_uses_with(names.initializer(f"{name}.folded", tensor))
    for member in cone:  # 1.
        if not any(is_used(output) for output in member.outputs):
            parameters = member.inputs
            model.graph.remove(member, safe=True)
            for parameter in parameters:
                remove_if_unused(model, parameter)
    return True


def _foldable(node: ir.Node) -> bool:
    op = lookup(node)
    return node.domain == "" and not (op.random or op.quantizes)


def _is_narrow(value: ir.Value) -> bool:
    """Whether a constant holds many integers of few bits, which numbers in their place would outgrow."""
    kind = node_facts.dtype(value)
    return kind is not None and kind.is_integer() and kind.bitwidth <= 16 and node_facts.size(value) >= _LARGE


def _exclusive(weight: ir.Value, cone: list[ir.Node]) -> bool:
    """True when nothing large in the cone is used outside it."""
    members = set(cone)
    for node in cone:
        inputs = [
            v
            for v in node_facts.data_inputs(node)
            if not lookup(node).shape_only and node_facts.size(v) >= _LARGE
        ]  # 5.
        for value in (*inputs, *node.outputs):
            shared = any(usage.node not in members for usage in value.uses()) or value.is_graph_output()
            if shared and value is not weight:
                return False
    return True


def _evaluate(model: ir.Model, weight: ir.Value, cone: list[ir.Node]) -> ir.TensorProtocol | None:
    members = set(cone)
    nodes = [_cast_by_type(node) for node in model.graph if node in members]
    feeds = {
        str(value.name): value.const_value.numpy()
        for node in cone
        for value in node_facts.data_inputs(node)
        if value.const_value is not None and value.is_initializer()
    }
    most = _ROOM + _GROWTH * sum(array.size for array in feeds.values())
    try:
        result = evaluate_nodes(nodes, feeds, model.opset_imports, most)[str(weight.name)]
        tensor = ir.Tensor(result, name=weight.name)
        return tensor if node_facts.is_float(tensor) and bool(np.isfinite(result).all()) else None
    except Exception:  # an operator or a case that the evaluator does not know: the expression stays
        return None


def _cast_by_type(node: ir.Node) -> onnx.NodeProto:
    """The node itself, or for CastLike the Cast to the type of its second input."""
    proto = ir.to_proto(node)
    target = node.inputs[1].dtype if node.op_type == "CastLike" and node.inputs[1] is not None else None
    if target is None:
        return proto
    return onnx.helper.make_node("Cast", proto.input[:1], proto.output, to=target.value)
