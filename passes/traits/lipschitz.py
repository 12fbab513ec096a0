"""Lipschitz constants that several families share.

A bound says: when only this input changes, by ``d`` in the Euclidean norm of the whole tensor, the outputs
change by at most ``bound * |d|``. Zero stands for an input whose values the outputs do not depend on, or that
is constant; None for an input without a bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph import node_facts

__all__ = ["Bound", "broadcast", "constant_or", "data_only", "independent", "largest", "pointwise", "repeats"]

Bound = Callable[[ir.Node], tuple[float | None, ...]]


def constant_or(node: ir.Node, index: int, bound: float | None) -> float | None:
    """``bound``, or zero when the input is constant or absent."""
    absent = node_facts.input_of(node, index) is None
    return 0.0 if absent or node_facts.constant(node, index) is not None else bound


def data_only(bound: float | Callable[[ir.Node], float | None] | None) -> Bound:
    """Only the first input carries data; all others are shapes, axes or parameters.

    Parameters that are neither constant nor integers have no bound.
    """

    def lipschitz(node: ir.Node) -> tuple[float | None, ...]:
        first = bound(node) if callable(bound) else bound
        return first, *(_parameter(node, i) for i in range(1, len(node.inputs)))

    return lipschitz


def independent(node: ir.Node) -> tuple[float | None, ...]:
    """The outputs do not depend on the values of any input."""
    return (0.0,) * len(node.inputs)


def _parameter(node: ir.Node, index: int) -> float | None:
    value = node_facts.input_of(node, index)
    integer = value is not None and value.dtype in (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)
    return 0.0 if integer else constant_or(node, index, None)


def broadcast(node: ir.Node, index: int) -> float | None:
    """Norm of broadcasting input ``index`` to the first output's shape: sqrt(how often it is repeated)."""
    value, output = node_facts.dims(node_facts.input_of(node, index)), node_facts.dims(node.outputs[0])
    if value is None or output is None:
        return None
    padded = (1,) * (len(output) - len(value)) + value
    times = 1
    for mine, whole in zip(padded, output, strict=True):
        if mine == whole:  # two free dimensions count as the same one
            continue
        if whole is None or mine not in (1, None):
            return None
        times *= whole
    return math.sqrt(times)


def pointwise(bound: float | None) -> Bound:
    """The same bound for all inputs of an operator that broadcasts them."""

    def lipschitz(node: ir.Node) -> tuple[float | None, ...]:
        return tuple(_scaled(node, i, bound) for i in range(len(node.inputs)))

    return lipschitz


def _scaled(node: ir.Node, index: int, bound: float | None) -> float | None:
    factor = broadcast(node, index)
    return constant_or(node, index, None if bound is None or factor is None else bound * factor)


def largest(node: ir.Node, index: int) -> float | None:
    """Largest absolute value of a constant input, else None."""
    values = node_facts.array(node, index)
    if values is None or values.size == 0:
        return None
    return float(np.abs(values.astype(np.float64)).max())


def repeats(node: ir.Node) -> float | None:
    """sqrt(elements of the output / elements of the input), for operators that repeat all elements alike."""
    before, after = node_facts.dims(node.inputs[0]), node_facts.dims(node.outputs[0])
    if before is None or after is None:
        return None
    free_before, free_after = sum(d is None for d in before), sum(d is None for d in after)
    if free_before != free_after:
        return None
    return math.sqrt(max(1.0, node_facts.size(node.outputs[0]) / max(1, node_facts.size(node.inputs[0]))))
