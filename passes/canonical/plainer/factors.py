"""A layer as the product of two, so that its rank can be less than full.

Behind a layer of many inputs for each output stands a second one that gives what comes in, the identity. What
flows between the two is a group of channels like any other, and to keep ``r`` of them is to give the product
the rank ``r`` (Jaderberg et al. 2014, arXiv 1405.3866; Zhang et al. 2016, arXiv 1505.06798: a convolution of
``r`` outputs, one of 1 x 1 behind it). A pair that costs as much as one layer is multiplied out again
where the model is written.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.graph.names import Names, remove_if_unused
from obs_onnx.passes.graph.set_weights import hold
from obs_onnx.passes.graph.writer import Writer, take_over
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.ops import linear
from obs_onnx.passes.traits.linear import ConvGeometry, Linear

__all__ = ["FACTOR", "MergeFactors", "SplitLayers", "output_axis", "pairs"]

FACTOR = "obs_onnx.factor"
"""Key in ``Node.meta`` of a second factor."""

_LEAST_INPUTS = 4  # of a layer for each output: the identity costs at most a quarter of the layer
_LEAST_OUTPUTS = 8


class SplitLayers(ir.passes.InPlacePass):
    """Put an identity behind every layer whose product with it can be cheaper than the layer.

    1. The layer serves one node, has one group, and at least four inputs for each output (kernel offsets
       count).
    2. The second factor has the name and the bias of the layer; the first is called ``<name>.rank``.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on a prepared ``model``."""
        names, count = Names(model), 0
        nodes = {str(node.name): node for node in model.graph}
        for layer in find_layers(model)[0]:
            node = nodes.get(layer.uses[0].node)
            found = None if node is None or not _fits(layer) else linear(node)  # 1.
            if node is not None and found is not None and _split(names, layer, node, found):
                count += 1
        return ir.passes.PassResult(model, modified=bool(count))


def _fits(layer: Layer) -> bool:
    groups, outputs, inputs = layer.layout.goi
    geometry = layer.uses[0].geometry
    if isinstance(geometry, ConvGeometry):
        plain = not geometry.transposed and bool(geometry.kernel)
    else:
        plain = geometry.output_axis == -1
    return (
        plain
        and groups == 1
        and layer.integers is None
        and len(layer.uses) == 1
        and outputs >= _LEAST_OUTPUTS
        and outputs * _LEAST_INPUTS <= inputs
    )


def _split(names: Names, layer: Layer, node: ir.Node, found: Linear) -> bool:
    held = node.inputs[found.weight_input]
    tensor, y = None if held is None else held.const_value, node.outputs[0]
    if held is None or tensor is None or len(node.outputs) != 1 or node.op_type not in ("Conv", "MatMul"):
        return False
    identity = np.eye(found.layout.goi[1], dtype=tensor.numpy().dtype)
    write, kernel = Writer(names, node), tuple[int, ...]()
    if isinstance(found.geometry, ConvGeometry):
        kernel = (1,) * len(found.geometry.kernel)
    node.replace_input_with(found.weight_input, names.initializer(f"{layer.name}.rank", tensor))  # 2.
    hold(held, identity.reshape(*identity.shape, *kernel))
    inputs: list[ir.Value | None] = [y, held]
    if kernel:
        if found.bias_input is not None and found.bias_input < len(node.inputs):
            inputs.append(node.inputs[found.bias_input])
            node.resize_inputs(found.bias_input)
        z = write.op("Conv", inputs, ir.AttrInt64s("kernel_shape", kernel), behind=True)
    else:
        z = write.op("MatMul", inputs, behind=True)
    z.type, z.shape = y.type, y.shape
    second = z.producer()
    assert second is not None
    take_over(names, y, z)
    second.replace_input_with(0, y)
    second.meta[FACTOR] = True
    return True


def pairs(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Node]]:
    """Both nodes of every layer that is a product of two."""
    for second in model.graph:
        value = second.inputs[0] if FACTOR in second.meta else None
        first = None if value is None else value.producer()
        alone = value is not None and len(value.uses()) == 1 and not value.is_graph_output()
        if first is not None and alone and len([one for one in first.inputs if one is not None]) == 2:
            yield first, second


def output_axis(node: ir.Node) -> int:
    """Axis of the weight of a factor that its outputs lie along."""
    return 0 if node.op_type == "Conv" else 1


class MergeFactors(ir.passes.InPlacePass):
    """Multiply out the pairs of :class:`SplitLayers` that together are no smaller than one layer."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        count = sum(_merge(model, first, second) for first, second in list(pairs(model)))
        return ir.passes.PassResult(model, modified=bool(count))


def _merge(model: ir.Model, first: ir.Node, second: ir.Node) -> bool:
    (a_value, a), (b_value, b) = _weight(first), _weight(second)
    if first.op_type == "Conv":
        rank, outputs, inputs = len(a), len(b), a[0].size
        product = np.tensordot(b.reshape(outputs, rank), a, (1, 0))
    else:
        (inputs, rank), outputs = a.shape, b.shape[1]
        product = a @ b
    if rank * (inputs + outputs) < outputs * inputs:
        return False
    hold(b_value, product.astype(_array(a_value).dtype))
    first.replace_input_with(1, b_value)
    names, inner = Names(model), first.outputs[0]
    bias = second.inputs[2:]
    if bias:
        first.resize_inputs(3)
        first.replace_input_with(2, bias[0])
    inner.shape, inner.type = second.outputs[0].shape, second.outputs[0].type
    take_over(names, second.outputs[0], inner)
    model.graph.remove(second, safe=True)
    remove_if_unused(model, a_value)
    return True


def _weight(node: ir.Node) -> tuple[ir.Value, NDArray[np.float64]]:
    value = node.inputs[1]
    assert value is not None
    return value, _array(value).astype(np.float64)


def _array(value: ir.Value) -> NDArray[np.generic]:
    assert value.const_value is not None
    return value.const_value.numpy()
