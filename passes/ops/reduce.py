"""Reductions over n elements: sums have norm sqrt(n), means 1 / sqrt(n), picks and norms one."""

from __future__ import annotations

import math
from functools import partial

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.ops.quantized.counterpart import counterpart
from obs_onnx.passes.ops.vjp.reduce import RULES
from obs_onnx.passes.traits.atoms import fixed
from obs_onnx.passes.traits.lipschitz import data_only
from obs_onnx.passes.traits.op import Op, differentiable, related
from obs_onnx.passes.traits.relation import Freeze, Operand, Relation

__all__ = ["TABLE"]


def _reduced(node: ir.Node) -> int | None:
    """Number of elements in one result, unknown lengths left out; None when the axes are unknown."""
    shape, axes = node_facts.dims(node.inputs[0]), node_facts.axes(node)
    if shape is None or axes is None:
        return None
    if not axes:
        if node_facts.int_attribute(node, "noop_with_empty_axes"):
            return 1
        axes = tuple(range(len(shape)))
    return math.prod(shape[axis] or 1 for axis in axes)


def _free(node: ir.Node) -> bool:
    shape, axes = node_facts.dims(node.inputs[0]), node_facts.axes(node)
    return shape is None or axes is None or any(shape[axis] is None for axis in axes or range(len(shape)))


def _mean(node: ir.Node) -> float:
    """An unknown length can only make the norm smaller."""
    return 1.0 / math.sqrt(max(1, _reduced(node) or 1))


def _sum(node: ir.Node) -> float | None:
    count = _reduced(node)
    return None if count is None or _free(node) else math.sqrt(count)


def _cumulative_sum(node: ir.Node) -> float | None:
    """Norm of the lower triangular matrix of ones: 1 / (2 sin(pi / (4 n + 2)))."""
    shape, axis = node_facts.dims(node.inputs[0]), node_facts.array(node, 1)
    if shape is None or axis is None:
        return None
    length = shape[int(axis.reshape(-1)[0])]
    return None if length is None else 1.0 / (2.0 * math.sin(math.pi / (4 * length + 2)))


_ONE = Op(lipschitz=data_only(1.0))
_SUM = Op(lipschitz=data_only(_sum))
_NONE = Op(lipschitz=data_only(None))
_PLACE = Op(lipschitz=data_only(None), decides=True, chooses=True)


def _relate(r: Relation, kind: str) -> None:
    """The reduced axes go (or shrink to 1), the others pass; removed elements do not count."""
    x = r.axes(0)
    axes = r.integers("axes")
    if axes is None and r.has(1):
        given = r.constant(1)
        if given is None:
            raise Freeze("its axes are computed at run time")
        axes = tuple(int(i) for i in given)
    if not axes:
        axes = () if r.integer("noop_with_empty_axes") else tuple(range(len(x)))
    over = {axis % len(x) for axis in axes}
    for axis in sorted(over):
        r.mix(0, axis, kind)
    x = [r.atoms.resolve(labels) for labels in x]
    if r.integer("keepdims", 1):
        r.give([fixed(1) if i in over else labels for i, labels in enumerate(x)])
    else:
        r.give([labels for i, labels in enumerate(x) if i not in over])


def _relate_index(r: Relation) -> None:
    """The result is a position on the axis, which therefore keeps its elements."""
    x = r.axes(0)
    if r.node.op_type == "CumSum":
        if (given := r.constant(1)) is None:
            raise Freeze("its axis is computed at run time")
        axis = int(given.reshape(-1)[0]) % len(x)
    else:
        axis = r.integer("axis", 0 if r.node.op_type.startswith("Arg") else -1) % len(x)
    r.fix(x[axis], "its result counts positions on this axis")
    keep = r.node.op_type in ("TopK", "CumSum") or r.integer("keepdims", 1)
    shape = iter(r.shape())
    for index in range(len(r.node.outputs)):
        shape = iter(r.shape(index))
        out = []
        for i, labels in enumerate(x):
            if i != axis:
                out.append(labels)
                next(shape)
            elif keep:
                out.append(fixed(next(shape)))
        r.give(out, index)


_relate_sum = partial(_relate, kind="sum")
_relate_mean = partial(_relate, kind="mean")
_relate_quantized = counterpart(_relate_mean, Operand(0, 1, 2))
_relate_high = partial(_relate, kind="low")
_relate_low = partial(_relate, kind="high")
_relate_product = partial(_relate, kind="one")


_KNOWN = related(
    {
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
        "TopK": Op(lipschitz=data_only(1.0), decides=True, chooses=True),
        "CumSum": Op(lipschitz=data_only(_cumulative_sum)),
        "ArgMax": _PLACE,
        "ArgMin": _PLACE,
        "Det": _NONE,
        "com.microsoft::QLinearReduceMean": Op(quantizes=True),
    },
    {
        _relate_sum: "ReduceSum ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum",
        _relate_mean: "ReduceMean",
        _relate_quantized: "com.microsoft::QLinearReduceMean",
        _relate_high: "ReduceMax ReduceLogSumExp",
        _relate_low: "ReduceMin",
        _relate_product: "ReduceProd",
        _relate_index: "ArgMax ArgMin TopK CumSum",
    },
)

TABLE = differentiable(_KNOWN, RULES)
