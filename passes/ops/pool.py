"""Pooling.

Along one axis, windows of k elements with stride s and dilation d cover an element at most
ceil(k / (s / gcd(s, d))) times. MaxPool picks, so its norm is at most the root of that count. AveragePool is
a product of one matrix per axis (the valid part of a window is a box), so its norm is the product of theirs.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.ops import facts
from obs_onnx.passes.ops.bounds import data_only
from obs_onnx.passes.ops.registry import Op

__all__ = ["TABLE"]

_EXACT_LENGTH = 512  # longer axes are bounded by the count of windows


def _windows(node: ir.Node) -> list[tuple[int, int, int]]:
    """(kernel, stride, dilation) of each spatial axis."""
    kernel = facts.ints_attribute(node, "kernel_shape")
    strides = facts.ints_attribute(node, "strides", (1,) * len(kernel))
    dilations = facts.ints_attribute(node, "dilations", (1,) * len(kernel))
    return list(zip(kernel, strides, dilations, strict=True))


def _overlap(kernel: int, stride: int, dilation: int) -> int:
    return -(-kernel // (stride // math.gcd(stride, dilation)))


def _max_pool(node: ir.Node) -> float:
    return math.sqrt(math.prod(_overlap(*window) for window in _windows(node)))


def _average_pool(node: ir.Node) -> float:
    lengths, out_lengths = facts.dims(node.inputs[0]), facts.dims(node.outputs[0])
    windows, padded = _windows(node), bool(facts.int_attribute(node, "count_include_pad"))
    if (
        lengths is None
        or out_lengths is None
        or facts.text_attribute(node, "auto_pad", "NOTSET") != "NOTSET"
        or (padded and facts.int_attribute(node, "ceil_mode"))
    ):
        return _max_pool(node)
    pads = facts.ints_attribute(node, "pads", (0,) * 2 * len(windows))
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
    lengths = (facts.dims(node.inputs[0]) or ())[2:]
    return 1.0 / math.sqrt(max(1, math.prod(1 if length is None else length for length in lengths)))


def _lp_pool(node: ir.Node) -> float | None:
    """The Euclidean norm of each window; other powers are left without a bound."""
    return _max_pool(node) if facts.int_attribute(node, "p", 2) == 2 else None


TABLE = {
    "MaxPool": Op(lipschitz=data_only(_max_pool)),
    "AveragePool": Op(lipschitz=data_only(_average_pool)),
    "LpPool": Op(lipschitz=data_only(_lp_pool)),
    "GlobalMaxPool": Op(lipschitz=data_only(1.0)),
    "GlobalAveragePool": Op(lipschitz=data_only(_global_average)),
    "MaxUnpool": Op(lipschitz=data_only(None)),
    "MaxRoiPool": Op(lipschitz=data_only(None)),
    "RoiAlign": Op(lipschitz=data_only(None)),
}
