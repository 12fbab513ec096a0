"""Every per-output bias belongs to one node."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.names import Names, remove_if_unused
from obs_onnx.passes.layers.bias import bias_candidate
from obs_onnx.passes.ops import linear

__all__ = ["OwnBiases"]


class OwnBiases(ir.passes.InPlacePass):
    """Give each linear node a bias that it may change without changing another node.

    1. A bias input used elsewhere (or an output of the model) is copied.
    2. The same for the constant of an Add that follows a MatMul.
    3. A single number as C of Gemm becomes one number per output.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        names, count = Names(model), 0
        for node in list(model.graph):
            with node_facts.inside(node):
                count += _spread_scalar(model, node, names)  # 3.
                count += _own(node, names)
        return ir.passes.PassResult(model, modified=bool(count))


def _own(node: ir.Node, names: Names) -> int:
    found = linear(node)
    if found is None:
        return 0
    owner, index = node, found.bias_input
    if found.bias_behind and (candidate := bias_candidate(node.outputs[0], found)) is not None:  # 2.
        owner, index = candidate
    if index is None:
        return 0
    bias = owner.inputs[index]
    if bias is None or not bias.is_initializer():  # computed from integers
        return 0
    if len(list(bias.uses())) == 1 and not bias.is_graph_output():
        return 0
    owner.replace_input_with(index, names.copy(bias))  # 1.
    return 1


def _spread_scalar(model: ir.Model, node: ir.Node, names: Names) -> int:
    bias = node_facts.constant(node, 2) if node.op_type == "Gemm" and node.domain == "" else None
    weight = node_facts.constant(node, 1) if bias is not None else None
    if bias is None or weight is None or bias.size != 1 or not node_facts.is_float(bias):
        return 0
    outputs = int(weight.shape.numpy()[0 if node_facts.int_attribute(node, "transB") else 1])
    if outputs == 1:
        return 0
    old = node.inputs[2]
    assert old is not None
    values = np.full(outputs, bias.numpy().reshape(()), dtype=bias.dtype.numpy())
    node.replace_input_with(2, names.initializer(str(old.name), ir.Tensor(values, dtype=bias.dtype)))
    remove_if_unused(model, old)
    return 1
