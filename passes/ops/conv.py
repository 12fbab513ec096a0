"""Convolutions.

``Conv`` stores its weight as (O, I / groups, *kernel), ``ConvTranspose`` as (I, O / groups, *kernel).
Both become ``w_GOI`` with kernel offsets outside and input channels inside the last axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.ops.quantized.counterpart import counterpart
from obs_onnx.passes.ops.quantized.weights import held, stored
from obs_onnx.passes.ops.vjp.conv import RULES
from obs_onnx.passes.traits.atoms import fixed, product
from obs_onnx.passes.traits.linear import ConvGeometry, Linear, WeightLayout
from obs_onnx.passes.traits.op import Op, differentiable, related
from obs_onnx.passes.traits.relation import Freeze, Operand, Relation

__all__ = ["TABLE"]


def _geometry(node: ir.Node, kernel: tuple[int, ...], transposed: bool) -> ConvGeometry:
    rank = len(kernel)
    return ConvGeometry(
        kernel=kernel,
        strides=node_facts.ints_attribute(node, "strides", (1,) * rank),
        dilations=node_facts.ints_attribute(node, "dilations", (1,) * rank),
        pads=node_facts.ints_attribute(node, "pads", (0,) * (2 * rank)),
        auto_pad=node_facts.text_attribute(node, "auto_pad", "NOTSET"),
        groups=node_facts.int_attribute(node, "group", 1),
        transposed=transposed,
        output_padding=node_facts.ints_attribute(node, "output_padding", (0,) * rank) if transposed else (),
        output_shape=(node_facts.ints_attribute(node, "output_shape") or None) if transposed else None,
    )


def _linear(node: ir.Node, transposed: bool) -> Linear | str | None:
    weight = held(node, 1)
    if weight is None:
        return None
    if not weight.is_float:
        return f"weights of type {weight.dtype.name} are not pruned"
    shape = weight.shape
    groups, kernel = node_facts.int_attribute(node, "group", 1), shape[2:]
    if math.prod(shape) == 0 or shape[0] % groups:
        return f"a weight of shape {shape} does not split into {groups} groups"
    spatial = tuple(range(3, 3 + len(kernel)))
    split = (groups, shape[0] // groups, shape[1], *kernel)
    if transposed:
        outputs, inputs, perm = shape[1], split[1], (0, 2, *spatial, 1)
    else:
        outputs, inputs, perm = split[1], shape[1], (0, 1, *spatial, 2)
    layout = WeightLayout(shape, split, perm, (groups, outputs, inputs * math.prod(kernel)))
    bias = 2 if node_facts.input_of(node, 2) is not None else None
    linear = Linear(1, 0, layout, _geometry(node, kernel, transposed), bias)
    return (
        "its bias is computed at run time"
        if bias is not None and held(node, 2) is None
        else stored(node, linear)
    )


def _linear_conv(node: ir.Node) -> Linear | str | None:
    return _linear(node, transposed=False)


def _linear_conv_transpose(node: ir.Node) -> Linear | str | None:
    return _linear(node, transposed=True)


def _macs_quantized(node: ir.Node) -> int:
    return _macs_conv(node, weight=3)


def _per_position(node: ir.Node, weight: int = 1) -> int:
    dims = node_facts.dims(node_facts.input_of(node, weight)) or ()
    return math.prod(1 if dim is None else dim for dim in dims[1:])


def _macs_conv(node: ir.Node, weight: int = 1) -> int:
    """Every output element sums over the (I / groups, *kernel) part of the weight."""
    return node_facts.size(node.outputs[0]) * _per_position(node, weight)


def _macs_conv_transpose(node: ir.Node) -> int:
    """Every input element is spread over the (O / groups, *kernel) part of the weight."""
    return node_facts.size(node.inputs[0]) * _per_position(node)


def _left_alone(reason: str, weight_input: int = 1, macs: Callable[[ir.Node], int] | None = None) -> Op:
    return Op(
        linear=lambda node: reason if node_facts.constant(node, weight_input) is not None else None, macs=macs
    )


def _quantized(weight_input: int, macs: Callable[[ir.Node], int]) -> Op:
    return replace(_left_alone("quantized weights are not pruned", weight_input, macs), quantizes=True)


def _relate_conv(r: Relation, transposed: bool = False) -> None:
    """Input channels of x and w are one, output channels of w, bias and y are one.

    With groups, the input channels are (group, input of the group) and the output channels (group, output of
    the group): a group dies on both sides, or the same inputs die in every group.
    """
    x, w = r.axes(0), r.axes(1)
    groups = r.integer("group", 1)
    inputs, outputs = (w[0], w[1]) if transposed else (w[1], w[0])
    if len(x[1]) % groups or len(w[0]) % groups:
        raise Freeze(f"its channels do not split into {groups} groups")
    x_group, x_inner = r.atoms.split(x[1], [groups, len(x[1]) // groups])
    w_group, w_inner = r.atoms.split(w[0], [groups, len(w[0]) // groups])
    r.tie(x_group, w_group)
    if transposed:
        r.tie(x_inner, w_inner)
        y = r.atoms.resolve(product([w_group, outputs]))
    else:
        r.tie(x_inner, inputs)
        y = r.atoms.resolve(outputs)
    r.mix(1, 0 if transposed else 1)
    r.fix(x[2:], "it slides along this axis")
    r.fix(w[2:])
    if r.has(2):
        r.tie(r.axes(2)[0], y)
    r.give([r.atoms.resolve(x[0]), y, *(fixed(n) for n in r.shape()[2:])])
    if groups > 1:
        r.shrink(lambda s: s.attribute("group", s.count(w_group)))


_relate_integer = counterpart(_relate_conv, Operand(0, zero=2), Operand(1, zero=3, axes=(0,)))
_relate_quantized = counterpart(_relate_conv, Operand(0, 1, 2), Operand(3, 4, 5, axes=(0,)), Operand(8))


def _relate_transposed(r: Relation) -> None:
    _relate_conv(r, transposed=True)


def _relate_fused(r: Relation) -> None:
    """Convolution, then optionally the addition of a fourth input, then an activation."""
    _relate_conv(r)
    if r.has(3):
        r.give(r.broadcast([r.graph.labels[r.node.outputs[0]], r.axes(3)]))


_KNOWN = related(
    {
        "Conv": Op(linear=_linear_conv, macs=_macs_conv, weights=(1,), biases=(2,)),
        "ConvTranspose": Op(
            linear=_linear_conv_transpose, macs=_macs_conv_transpose, weights=(1,), biases=(2,)
        ),
        "DeformConv": _left_alone("deformable convolutions are not pruned yet"),
        "ConvInteger": _quantized(1, _macs_conv),
        "QLinearConv": _quantized(3, _macs_quantized),
        "com.microsoft::QLinearConv": _quantized(3, _macs_quantized),
        "com.microsoft::FusedConv": _left_alone(
            "convolutions fused with an activation are not pruned", macs=_macs_conv
        ),
        "com.microsoft::NhwcFusedConv": _left_alone("convolutions fused with an activation are not pruned"),
    },
    {
        _relate_conv: "Conv",
        _relate_integer: "ConvInteger",
        _relate_quantized: "QLinearConv com.microsoft::QLinearConv",
        _relate_transposed: "ConvTranspose",
        _relate_fused: "com.microsoft::FusedConv",
    },
)

TABLE = differentiable(_KNOWN, RULES)
