"""Normalizations, and the softmax family.

Statistics of the very input they divide by leave most of them without a global Lipschitz constant;
BatchNormalization with stored statistics is a scale per channel.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.ops.quantized.counterpart import counterpart
from obs_onnx.passes.ops.vjp.normalization import RULES
from obs_onnx.passes.traits.atoms import Labels, fixed
from obs_onnx.passes.traits.lipschitz import data_only
from obs_onnx.passes.traits.op import Op, differentiable, related
from obs_onnx.passes.traits.relation import Freeze, Operand, Relation
from obs_onnx.passes.traits.shrink import Shrink

__all__ = ["TABLE"]


def _batch_normalization(node: ir.Node) -> float | None:
    scale, variance = node_facts.array(node, 1), node_facts.array(node, 4)
    if (
        scale is None
        or variance is None
        or node_facts.int_attribute(node, "training_mode")
        or scale.size == 0
    ):
        return None
    epsilon = node_facts.float_attribute(node, "epsilon", 1e-5)
    return float(np.abs(scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)).max())


def _log_softmax(node: ir.Node) -> float | None:
    """The derivative is I - 1 p^T, with |1| = sqrt(n) and |p| <= 1."""
    shape = node_facts.dims(node.inputs[0])
    if shape is None or not shape:
        return None
    old = (node_facts.version(node) or 13) < 13
    axis = node_facts.int_attribute(node, "axis", 1 if old else -1)
    lengths = shape[axis:] if old else (shape[axis],)
    known = [length for length in lengths if length is not None]
    return 1.0 + math.sqrt(math.prod(known)) if len(known) == len(lengths) else None


_NONE = Op(lipschitz=data_only(None))
_SCALED = Op(lipschitz=data_only(None), learnt=(1,), annihilates=(1,))
_SHIFTED = Op(lipschitz=data_only(None), learnt=(1, 2), annihilates=(1,))


def _relate_batch(r: Relation) -> None:
    """Scale, shift, mean and variance lie along axis 1."""
    if any(map(r.used, range(1, len(r.node.outputs)))):
        raise Freeze("it computes batch statistics")
    axes = list(r.axes(0))
    for slot in range(1, 5):
        r.tie(axes[1], r.axes(slot)[0])
    for axis in range(len(axes)):
        if r.integer("training_mode") and axis != 1:
            r.mix(0, axis, "normalize")
    axes[1] = r.atoms.resolve(axes[1])
    r.give(axes)


def _relate_instance(r: Relation) -> None:
    """Scale and shift along axis 1, statistics over all axes behind it."""
    axes = r.axes(0)
    for slot in (1, 2):
        r.tie(axes[1], r.axes(slot)[0])
    for axis in range(2, len(axes)):
        r.mix(0, axis, "normalize")
    r.give([r.atoms.resolve(labels) for labels in axes])


def _parameters(r: Relation, x: list[Labels], slots: tuple[int, ...]) -> None:
    for slot in slots:
        if r.has(slot):
            r.broadcast([x, r.axes(slot)])


def _relate_layer(r: Relation, kind: str = "normalize", parameters: tuple[int, ...] = (1, 2)) -> None:
    """Statistics, scale and shift from ``axis`` on; further outputs are means and 1 / deviation."""
    x = r.axes(0)
    axis = r.integer("axis", -1) % len(x)
    _parameters(r, x, parameters)
    for i in range(axis, len(x)):
        r.mix(0, i, kind, deviation=len(parameters))
    x = [r.atoms.resolve(labels) for labels in x]
    r.give(x)
    for index in range(1, len(r.node.outputs)):
        r.give([*x[:axis], *(fixed(1) for _ in x[axis:])], index)


def _relate_rms(r: Relation) -> None:
    _relate_layer(r, "rms", (1,))


def _relate_skip(r: Relation, kind: str = "normalize", parameters: tuple[int, ...] = (2, 3, 4)) -> None:
    """Sum of two inputs and a bias, normalised over the last axis; the last output is the sum."""
    x = r.broadcast([r.axes(0), r.axes(1)])
    _parameters(r, x, parameters)
    r.mix(0, len(x) - 1, kind)
    x = [r.atoms.resolve(labels) for labels in x]
    r.give(x)
    if r.used(1) or r.used(2):
        raise Freeze("its statistics are used")
    r.give(x, 3)


def _relate_skip_rms(r: Relation) -> None:
    _relate_skip(r, "rms", (2, 3))


def _relate_group(r: Relation) -> None:
    """Channels are (group, channel of the group); whole groups may die."""
    x = list(r.axes(0))
    groups = r.integer("num_groups", 1)
    group, inner = r.atoms.split(x[1], [groups, len(x[1]) // groups])
    r.fix(inner, "its statistics mix the channels of a group")
    for slot in (1, 2):
        parameter = r.axes(slot)[0]
        r.tie(parameter, x[1] if len(parameter) == len(x[1]) else group)
    x[1] = r.atoms.resolve(x[1])
    r.give(x)
    r.shrink(lambda s: s.attribute("num_groups", s.count(group)))


def _relate_softmax(r: Relation) -> None:
    """Every element along the axis counts for all others."""
    x, opset = r.axes(0), r.integer("opset", r.opset)
    axis = r.integer("axis", -1 if opset >= 13 else 1) % len(x)
    over = x[axis:] if opset < 13 else [x[axis]]
    r.fix(over, f"{r.node.op_type} over this axis weighs every element against the others")
    r.give([r.atoms.resolve(labels) for labels in x])


_relate_quantized = counterpart(_relate_softmax, Operand(0, 1, 2))


def _relate_local(r: Relation) -> None:
    """Neighbouring channels inhibit each other: ``x / (bias + alpha / size * sum of squares) ** beta``.

    Once channels are gone, who was whose neighbour is written into a 1x1 convolution.
    """
    x = r.axes(0)
    r.mix(0, 1)
    r.shrink(lambda s: _shrink_local(s, x[1], len(x)))
    r.give([r.atoms.resolve(labels) for labels in x])


def _shrink_local(s: Shrink, channels: Labels, rank: int) -> None:
    if not s.changed(channels):
        return
    (value,), attributes = s.node.inputs, s.node.attributes
    assert value is not None
    size = attributes.get_int("size", 1)
    kind = (value.dtype or ir.DataType.FLOAT).numpy()
    n = len(channels)
    offset_CC = np.arange(n)[None, :] - np.arange(n)[:, None]
    near_CC = (offset_CC >= -((size - 1) // 2)) & (offset_CC <= size // 2)
    alive = s.alive(channels)
    weight = near_CC[np.ix_(alive, alive)] * (attributes.get_float("alpha", 1e-4) / size)
    kernel = s.write.constant(weight.reshape(*weight.shape, *(1,) * (rank - 2)).astype(kind))
    base = s.write.op("Conv", [s.write.op("Mul", [value, value]), kernel])
    base = s.write.op("Add", [base, s.write.constant(np.array(attributes.get_float("bias", 1.0), kind))])
    power = s.write.op("Pow", [base, s.write.constant(np.array(attributes.get_float("beta", 0.75), kind))])
    s.replace(s.write.op("Div", [value, power]))


def _relate_norm(r: Relation) -> None:
    r.mix(0, r.integer("axis", -1), "sum")
    r.give(r.axes(0))


def _relate_mean_variance(r: Relation) -> None:
    x = r.axes(0)
    for axis in r.integers("axes") or (0, 2, 3):
        r.fix(x[axis], "its statistics run over this axis")
    r.give([r.atoms.resolve(labels) for labels in x])


_KNOWN = related(
    {
        "BatchNormalization": Op(lipschitz=data_only(_batch_normalization), learnt=(1, 2), annihilates=(1,)),
        "Softmax": Op(lipschitz=data_only(1.0)),
        "LogSoftmax": Op(lipschitz=data_only(_log_softmax)),
        "Hardmax": Op(lipschitz=data_only(None), decides=True),
        "LayerNormalization": _SHIFTED,
        "RMSNormalization": _SCALED,
        "GroupNormalization": _SHIFTED,
        "InstanceNormalization": _SHIFTED,
        "MeanVarianceNormalization": _NONE,
        "LpNormalization": _NONE,
        "LRN": _NONE,
        "SimplifiedLayerNormalization": _SCALED,
        "com.microsoft::SkipLayerNormalization": _NONE,
        "com.microsoft::SkipSimplifiedLayerNormalization": _NONE,
        "com.microsoft::EmbedLayerNormalization": _NONE,
        "com.microsoft::GroupNorm": _NONE,
        "com.microsoft::QLinearSoftmax": Op(quantizes=True),
    },
    {
        _relate_batch: "BatchNormalization",
        _relate_instance: "InstanceNormalization",
        _relate_layer: "LayerNormalization",
        _relate_rms: "RMSNormalization SimplifiedLayerNormalization",
        _relate_skip: "com.microsoft::SkipLayerNormalization",
        _relate_skip_rms: "com.microsoft::SkipSimplifiedLayerNormalization",
        _relate_group: "GroupNormalization",
        _relate_norm: "LpNormalization",
        _relate_mean_variance: "MeanVarianceNormalization",
        _relate_local: "LRN",
        _relate_softmax: "Softmax LogSoftmax Hardmax",
        _relate_quantized: "com.microsoft::QLinearSoftmax",
    },
)

TABLE = differentiable(_KNOWN, RULES)
