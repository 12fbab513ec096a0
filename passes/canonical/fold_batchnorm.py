"""Fold BatchNormalization into the linear operator in front of it.

    y = gamma (W x + b - mean) / sqrt(var + eps) + beta
      = (s W) x + (s (b - mean) + beta)        with s = gamma / sqrt(var + eps), one number per output

Everything is computed in float64 and written back in the types the weight and the bias had.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.names import Names, remove_if_unused
from obs_onnx.passes.graph.usage import is_used
from obs_onnx.passes.layers.bias import bias_candidate
from obs_onnx.passes.ops import linear, lookup
from obs_onnx.passes.traits.linear import Linear, MatmulGeometry

__all__ = ["FoldBatchNormalization"]


class FoldBatchNormalization(ir.passes.InPlacePass):
    """Fold inference-mode BatchNormalization where that is exact.

    1. After Conv and ConvTranspose, any rank.
    2. After Gemm, and after MatMul with or without a bias Add, when outputs are the channels (rank 2).
    3. A missing bias is added: as an input, or after MatMul as an Add in place of the BatchNormalization.

    Left alone: training mode, parameters that are not constant, values used elsewhere as well, weights that
    several nodes share, weights whose result would overflow their type.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        names, count = Names(model), 0
        for node in list(model.graph):
            with node_facts.inside(node):
                count += _is_inference(node) and _fold(model, node, names)
        return ir.passes.PassResult(model, modified=bool(count))


def _is_inference(node: ir.Node) -> bool:
    return (
        node.op_type == "BatchNormalization"
        and node.domain == ""
        and lookup(node).foreign is None
        and not node_facts.int_attribute(node, "training_mode")
        and not any(is_used(output) for output in node.outputs[1:])
        and all(node_facts.constant(node, i) is not None for i in (1, 2, 3, 4))
    )


def _fold(model: ir.Model, norm: ir.Node, names: Names) -> bool:
    found = _producer(norm)
    if found is None:
        return False
    node, product, owner, index = found
    weight = node.inputs[product.weight_input]
    assert weight is not None
    assert weight.const_value is not None
    gamma, beta, mean, var = (_float64(norm, i) for i in (1, 2, 3, 4))
    s = gamma / np.sqrt(var + node_facts.float_attribute(norm, "epsilon", 1e-5))
    groups, outputs, _ = product.layout.goi
    if s.shape != (groups * outputs,):
        return False
    w_GOI = product.layout.to_matrix(weight.const_value.numpy()) * s.reshape(groups, outputs, 1)
    old_bias = None if index is None else owner.inputs[index]
    bias = np.zeros_like(s)
    if old_bias is not None and old_bias.const_value is not None:
        bias = old_bias.const_value.numpy().astype(np.float64).reshape(-1) * product.bias_scale
    bias = (s * (bias - mean) + beta) / product.bias_scale
    new_weight = _like(weight.const_value, product.layout.to_tensor(w_GOI))
    new_bias = _like(
        weight.const_value if old_bias is None or old_bias.const_value is None else old_bias.const_value, bias
    )
    if not (np.isfinite(new_weight.numpy()).all() and np.isfinite(new_bias.numpy()).all()):
        return False

    weight.const_value = new_weight
    if old_bias is not None:
        old_bias.const_value = new_bias
        _take_over(model, norm, owner.outputs[0])
        return True
    value = names.initializer(_bias_name(str(weight.name)), new_bias)  # 3.
    if product.bias_behind:
        add = ir.node("Add", [node.outputs[0], value], name=norm.name)
        model.graph.insert_before(norm, add)
        _take_over(model, norm, add.outputs[0])
        return True
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    unused = node.inputs[2]
    node.replace_input_with(2, value)
    remove_if_unused(model, unused)
    if node.op_type == "Gemm":
        node.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    _take_over(model, norm, node.outputs[0])
    return True


def _producer(norm: ir.Node) -> tuple[ir.Node, Linear, ir.Node, int | None] | None:
    """Linear node before ``norm``, its description, and the node and input that hold the bias (if any)."""
    x = norm.inputs[0]
    node = None if x is None else x.producer()
    if x is None or node is None or node.graph is not norm.graph or not _only_use(x):
        return None
    owner = node
    if node.op_type == "Add" and node.domain == "":
        products = [p for v in node.inputs if v is not None and (p := v.producer()) and _bias_behind(p)]
        if len(products) != 1:
            return None
        node = products[0]
    found = linear(node)
    if found is None or found.integers is not None or found.bias_integers is not None:
        return None
    index = found.bias_input
    if isinstance(found.geometry, MatmulGeometry):  # 2.
        if found.geometry.output_axis != -1 or found.layout.goi[0] != 1 or len(node_facts.dims(x) or ()) != 2:
            return None
        candidate = bias_candidate(node.outputs[0], found) if found.bias_behind else None
        if owner is not node:
            if candidate is None or candidate[0] is not owner:
                return None
            index = candidate[1]
    elif owner is not node:
        return None
    weight = node.inputs[found.weight_input]
    bias = None if index is None else owner.inputs[index]
    if any(value is not None and (not _only_use(value)) for value in (weight, bias)):
        return None
    return node, found, owner, index


def _bias_behind(node: ir.Node) -> bool:
    found = linear(node)
    return found is not None and found.bias_behind


def _only_use(value: ir.Value) -> bool:
    return len(list(value.uses())) == 1 and not value.is_graph_output()


def _float64(node: ir.Node, index: int) -> NDArray[np.float64]:
    values = node_facts.array(node, index)
    assert values is not None
    return values.astype(np.float64).reshape(-1)


def _like(tensor: ir.TensorProtocol, values: NDArray[np.float64]) -> ir.Tensor[NDArray[np.generic]]:
    shape = tensor.shape.numpy() if values.size == tensor.size else values.shape
    with np.errstate(over="ignore"):
        data = values.reshape(shape).astype(tensor.dtype.numpy())
    return ir.Tensor(data, dtype=tensor.dtype, name=tensor.name)


def _bias_name(weight: str) -> str:
    return weight[: -len("weight")] + "bias" if weight.endswith("weight") else f"{weight}_bias"


def _take_over(model: ir.Model, norm: ir.Node, replacement: ir.Value) -> None:
    """Let ``replacement`` stand for the output of ``norm``, under the name of that output."""
    old = norm.outputs[0]
    parameters, name, shape, type_ = norm.inputs[1:], old.name, old.shape, old.type
    replacement.meta.update(old.meta)
    old.replace_all_uses_with(replacement, replace_graph_outputs=True)
    model.graph.remove(norm, safe=True)
    replacement.name = name
    replacement.shape = shape if shape is not None else replacement.shape
    replacement.type = type_ if type_ is not None else replacement.type
    for parameter in parameters:
        remove_if_unused(model, parameter)
