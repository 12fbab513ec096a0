"""Reductions over n elements: sums have norm sqrt(n), means 1 / sqrt(n), picks and norms one."""

from __future__ import annotations

import math

import onnx_ir as ir

from obs_onnx.passes.ops import facts
from obs_onnx.passes.ops.bounds import data_only
from obs_onnx.passes.ops.registry import Op

__all__ = ["TABLE"]


def _reduced(node: ir.Node) -> int | None:
    """Number of elements in one result, unknown lengths left out; None when the axes are unknown."""
    shape, axes = facts.dims(node.inputs[0]), facts.axes(node)
    if shape is None or axes is None:
        return None
    if not axes:
        if facts.int_attribute(node, "noop_with_empty_axes"):
            return 1
        axes = tuple(range(len(shape)))
    return math.prod(shape[axis] or 1 for axis in axes)


def _free(node: ir.Node) -> bool:
    shape, axes = facts.dims(node.inputs[0]), facts.axes(node)
    return shape is None or axes is None or any(shape[axis] is None for axis in axes or range(len(shape)))


def _mean(node: ir.Node) -> float:
    """An unknown length can only make the norm smaller."""
    return 1.0 / math.sqrt(max(1, _reduced(node) or 1))


def _sum(node: ir.Node) -> float | None:
    count = _reduced(node)
    return None if count is None or _free(node) else math.sqrt(count)


def _cumulative_sum(node: ir.Node) -> float | None:
    """Norm of the lower triangular matrix of ones: 1 / (2 sin(pi / (4 n + 2)))."""
    shape, axis = facts.dims(node.inputs[0]), facts.array(node, 1)
    if shape is None or axis is None:
        return None
    length = shape[int(axis.reshape(-1)[0])]
    return None if length is None else 1.0 / (2.0 * math.sin(math.pi / (4 * length + 2)))


_ONE = Op(lipschitz=data_only(1.0))
_SUM = Op(lipschitz=data_only(_sum))
_NONE = Op(lipschitz=data_only(None))

TABLE = {
    "ReduceMean": Op(lipschitz=data_only(_mean)),
    "ReduceSum": _SUM,
    "ReduceL1": _SUM,
    "ReduceL2": _ONE,
    "ReduceMax": _ONE,
    "ReduceMin": _ONE,
    "ReduceLogSumExp": _ONE,
    "ReduceProd": _NONE,
    "ReduceLogSum": _NONE,
    "ReduceSumSquare": _NONE,
    "CumSum": Op(lipschitz=data_only(_cumulative_sum)),
    "ArgMax": _NONE,
    "ArgMin": _NONE,
    "Det": _NONE,
}
