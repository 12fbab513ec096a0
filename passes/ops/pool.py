"""Pooling.

Along one axis, windows of k elements with stride s and dilation d cover an element at most
ceil(k / (s / gcd(s, d))) times. MaxPool picks, so its norm is at most the root of that count. AveragePool is
a product of one matrix per axis (the valid part of a window is a box), so its norm is the product of theirs.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.ops.quantized.counterpart import counterpart
from obs_onnx.passes.ops.vjp.pool import RULES
from obs_onnx.passes.traits.atoms import fixed
from obs_onnx.passes.traits.lipschitz import data_only, same_length
from obs_onnx.passes.traits.op import Op, differentiable, related
from obs_onnx.passes.traits.relation import Freeze, Operand, Relation
from obs_onnx.passes.traits.resampling import Resampling

__all__ = ["TABLE"]

_EXACT_LENGTH = 512  # longer axes are bounded by the count of windows


def _windows(node: ir.Node) -> list[tuple[int, int, int]]:
    """(kernel, stride, dilation) of each spatial axis."""
    kernel = node_facts.ints_attribute(node, "kernel_shape")
    strides = node_facts.ints_attribute(node, "strides", (1,) * len(kernel))
    dilations = node_facts.ints_attribute(node, "dilations", (1,) * len(kernel))
    return list(zip(kernel, strides, dilations, strict=True))


def _overlap(kernel: int, stride: int, dilation: int) -> int:
    return -(-kernel // (stride // math.gcd(stride, dilation)))


def _max_pool(node: ir.Node) -> float:
    return math.sqrt(math.prod(_overlap(*window) for window in _windows(node)))


def _average_pool(node: ir.Node) -> float:
    lengths, out_lengths = node_facts.dims(node.inputs[0]), node_facts.dims(node.outputs[0])
    windows, padded = _windows(node), bool(node_facts.int_attribute(node, "count_include_pad"))
    if (
        lengths is None
        or out_lengths is None
        or node_facts.text_attribute(node, "auto_pad", "NOTSET") != "NOTSET"
        or (padded and node_facts.int_attribute(node, "ceil_mode"))
    ):
        return _max_pool(node)
    pads = node_facts.ints_attribute(node, "pads", (0,) * 2 * len(windows))
    norm = 1.0
    for axis, window in enumerate(windows):
        length, outputs = lengths[2 + axis], out_lengths[2 + axis]
        if length is None or outputs is None or max(length, outputs) > _EXACT_LENGTH:
            norm *= math.sqrt(_overlap(*window))
        else:
            norm *= _average_norm(length, outputs, pads[axis], padded, *window)
    return norm


def _average_norm(
    length: int, outputs: int, pad: int, padded: bool, kernel: int, stride: int, dilation: int
) -> float:
    """Spectral norm of averaging windows of a line of ``length`` elements, padding counted or not."""
    average_OI = np.zeros((outputs, length))
    for o in range(outputs):
        inside = [i for j in range(kernel) if 0 <= (i := o * stride - pad + j * dilation) < length]
        average_OI[o, inside] = 1.0 / max(1, kernel if padded else len(inside))
    return float(np.linalg.norm(average_OI, 2)) if average_OI.size else 0.0


def _global_average(node: ir.Node) -> float:
    """The mean of n elements has norm 1 / sqrt(n); unknown lengths count as one."""
    lengths = (node_facts.dims(node.inputs[0]) or ())[2:]
    return 1.0 / math.sqrt(max(1, math.prod(1 if length is None else length for length in lengths)))


def _lp_pool(node: ir.Node) -> float | None:
    """The Euclidean norm of each window; other powers are left without a bound."""
    return _max_pool(node) if node_facts.int_attribute(node, "p", 2) == 2 else None


def _resize(node: ir.Node) -> float | None:
    """Product of the norms along the axes; an axis of unknown length must keep it by a scale of one."""
    before, after = node_facts.dims(node.inputs[0]), node_facts.dims(node.outputs[0])
    if before is None or after is None or len(before) != len(after):
        return None
    scales, how = _scales(node, len(before)), _resampling(node)
    if scales is None or how is None:
        return None
    bound = 1.0
    for axis, (length, new, scale) in enumerate(zip(before, after, scales, strict=True)):
        if scale == 1.0 or (scale is None and same_length(node.inputs[0], node.outputs[0], axis)):
            continue
        norm = how.norm(length, new, scale) if length and new else None
        if norm is None:
            return None
        bound *= norm
    return bound


def _scales(node: ir.Node, rank: int) -> list[float | None] | None:
    """The scale of each axis, None where its new length is given; None when they are computed at run time."""
    old = _is_old(node)
    if not old and node_facts.input_of(node, 3) is not None and node_facts.dims(node.inputs[3]) != (0,):
        kept = node_facts.text_attribute(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
        return [None] * rank if kept else None
    given = node_facts.array(node, 1 if old else 2)
    held = node.attributes.get("scales")
    factors = [float(s) for s in (held.as_floats() if held is not None else () if given is None else given)]
    axes = [axis % rank for axis in node_facts.ints_attribute(node, "axes", tuple(range(rank)))]
    if len(factors) != len(axes):
        return None
    found: list[float | None] = [1.0] * rank
    for axis, factor in zip(axes, factors, strict=True):
        found[axis] = factor
    return found


def _is_old(node: ir.Node) -> bool:
    """Upsample, and Resize before it could say where places lie."""
    return node.op_type == "Upsample" or (node_facts.version(node) or _COORDINATES) < _COORDINATES


_COORDINATES = 11


def _resampling(node: ir.Node) -> Resampling | None:
    if node_facts.int_attribute(node, "antialias"):
        return None
    mode = node_facts.text_attribute(node, "mode", "nearest")
    if _is_old(node):
        return Resampling(mode, "asymmetric", "any")
    return Resampling(
        mode,
        node_facts.text_attribute(node, "coordinate_transformation_mode", "half_pixel"),
        node_facts.text_attribute(node, "nearest_mode", "round_prefer_floor"),
        node_facts.float_attribute(node, "cubic_coeff_a", -0.75),
        bool(node_facts.int_attribute(node, "exclude_outside")),
    )


def _relate_pool(r: Relation) -> None:
    """Batch and channels pass; positions are mixed."""
    if r.used(1):
        raise Freeze("it returns positions counted over channels")
    x = r.axes(0)
    r.fix(x[2:], "it pools along this axis")
    r.give([x[0], x[1], *(fixed(n) for n in r.shape()[2:])])


_relate_quantized = counterpart(_relate_pool, Operand(0, 1, 2))


def _relate_resize(r: Relation) -> None:
    """An axis that keeps its size passes; one that is resampled stays. Sizes and scales restate the shape."""
    x, y = r.axes(0), r.shape()
    if r.node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise Freeze("it crops")
    scaled = _scaled_axes(r, len(x))
    same = [
        len(labels) == n and not r.dynamic(0, i) and i not in scaled
        for i, (labels, n) in enumerate(zip(x, y, strict=True))
    ]
    for labels, kept in zip(x, same, strict=True):
        if not kept:
            r.fix(labels, "it is resampled along this axis")
    r.give([labels if kept else fixed(n) for labels, kept, n in zip(x, same, y, strict=True)])
    if r.has(3) and (known := r.known(3)) is not None and known[0].size:
        axes = r.integers("axes") or tuple(range(len(x)))
        sizes = known[0]
        r.shrink(
            lambda s: s.operand(3, [s.count(x[a]) if same[a] else sizes[i] for i, a in enumerate(axes)])  # type: ignore[arg-type]
        )
    elif r.has(3) and any(labels.shape[1] for labels in x):
        raise Freeze("its sizes are computed at run time")


def _scaled_axes(r: Relation, rank: int) -> set[int]:
    """Axes with a scale other than one, which may keep their length all the same."""
    axes = [axis % rank for axis in r.integers("axes") or range(rank)]
    old = _is_old(r.node)
    sizes = None if old else r.known(3)
    if not old and r.has(3) and (sizes is None or sizes[0].size):
        stretch = r.node.attributes.get_string("keep_aspect_ratio_policy", "stretch") == "stretch"
        return set() if stretch else set(axes)
    held = r.node.attributes.get_floats("scales", None)
    scales = r.known(1 if old else 2)
    given = held if held is not None else None if scales is None else scales[0].reshape(-1)
    if given is None or len(given) != len(axes):
        return set(axes)
    return {axis for axis, scale in zip(axes, given, strict=True) if scale != 1.0}


def _relate_columns(r: Relation) -> None:
    """Col2Im: axis 1 is (channel, offset in the block)."""
    x, y = r.axes(0), r.shape()
    channel, offset = r.atoms.split(x[1], [y[1], len(x[1]) // y[1]])
    r.fix([offset, *x[2:]], "its elements are places in a block")
    r.give([x[0], channel, *(fixed(n) for n in y[2:])])


def _relate_sample(r: Relation) -> None:
    """GridSample: channels pass."""
    x = r.axes(0)
    r.fix([*x[2:], *r.axes(1)], "it is sampled along this axis")
    r.give([x[0], x[1], *(fixed(n) for n in r.shape()[2:])])


def _relate_regions(r: Relation) -> None:
    """Pooling of regions: channels pass."""
    x = r.axes(0)
    r.fix([x[0], *x[2:]], "regions are cut out along this axis")
    r.give([fixed(r.shape()[0]), x[1], *(fixed(n) for n in r.shape()[2:])])


_KNOWN = related(
    {
        "MaxPool": Op(lipschitz=data_only(_max_pool)),
        "AveragePool": Op(lipschitz=data_only(_average_pool), additive=True),
        "LpPool": Op(lipschitz=data_only(_lp_pool)),
        "GlobalMaxPool": Op(lipschitz=data_only(1.0)),
        "GlobalAveragePool": Op(lipschitz=data_only(_global_average), additive=True),
        "MaxUnpool": Op(lipschitz=data_only(None)),
        "MaxRoiPool": Op(lipschitz=data_only(None)),
        "Resize": Op(lipschitz=data_only(_resize), differentiable_inputs=1),
        "Upsample": Op(lipschitz=data_only(_resize)),
        "Col2Im": Op(lipschitz=data_only(None)),
        "GridSample": Op(lipschitz=data_only(None)),
        "RoiAlign": Op(lipschitz=data_only(None)),
        "com.microsoft::QLinearAveragePool": Op(quantizes=True),
        "com.microsoft::QLinearGlobalAveragePool": Op(quantizes=True),
    },
    {
        _relate_pool: "MaxPool AveragePool LpPool GlobalMaxPool GlobalAveragePool GlobalLpPool",
        _relate_quantized: "com.microsoft::QLinearAveragePool com.microsoft::QLinearGlobalAveragePool",
        _relate_resize: "Resize Upsample",
        _relate_columns: "Col2Im",
        _relate_sample: "GridSample",
        _relate_regions: "RoiAlign MaxRoiPool",
    },
)

TABLE = differentiable(_KNOWN, RULES)
