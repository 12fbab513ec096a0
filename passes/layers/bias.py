"""The bias of a layer: an input of its node, or a constant that an Add behind it adds."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.traits.linear import Linear, MatmulGeometry

__all__ = ["bias_add", "bias_candidate"]


def bias_add(y: ir.Value, linear: Linear) -> tuple[ir.Value, ir.Value | None]:
    """The value after the bias, and the bias, of a product ``y`` that an Add follows; else ``(y, None)``.

    A constant that other nodes use as well is no bias: it could not be changed for this node alone. Nor is a
    mask of infinities.
    """
    candidate = bias_candidate(y, linear)
    if candidate is None:
        return y, None
    add, index = candidate
    bias = add.inputs[index]
    assert bias is not None
    if len(list(bias.uses())) != 1 or bias.is_graph_output():
        return y, None
    if bias.const_value is not None and not np.isfinite(bias.const_value.numpy().astype(np.float64)).all():
        return y, None
    return add.outputs[0], bias


def bias_candidate(y: ir.Value, linear: Linear) -> tuple[ir.Node, int] | None:
    """The Add that alone uses the product ``y``, and the position of its constant, if that is a bias.

    The constant must have one element per output along the output axis (and per group) and be broadcast along
    all other axes, without widening ``y``.
    """
    assert isinstance(linear.geometry, MatmulGeometry)
    uses = list(y.uses())
    if len(uses) != 1 or y.is_graph_output():
        return None
    add, index = uses[0].node, 1 - uses[0].idx
    if add.op_type != "Add" or add.domain != "" or add.graph is not y.graph:
        return None
    bias = add.inputs[index]
    if bias is None or not bias.is_initializer() or bias.const_value is None:
        return None
    shape = tuple(int(dim) for dim in bias.const_value.shape.numpy())
    groups, outputs, _ = linear.layout.goi
    trailing = (outputs,) if linear.geometry.output_axis == -1 else (outputs, 1)
    if groups == 1:
        fits = shape[-len(trailing) :] == trailing and math.prod(shape) == outputs
    else:
        matrix = (1, outputs) if linear.geometry.output_axis == -1 else (outputs, 1)
        fits = shape == (*linear.layout.shape[:-2], *matrix)
    widens = len(shape) > len(trailing) and (y.shape is None or len(y.shape) < len(shape))
    return (add, index) if fits and not widens else None
