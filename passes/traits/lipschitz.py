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

__all__ = [
    "Bound",
    "broadcast",
    "constant_or",
    "data_only",
    "independent",
    "largest",
    "most_often",
    "pointwise",
    "same_length",
    "stretched",
]

Bound = Callable[[ir.Node], tuple[float | None, ...]]


def constant_or(node: ir.Node, index: int, bound: float | None) -> float | None:
    """``bound``, or zero when the input is constant or absent."""
    absent = node_facts.input_of(node, index) is None
    return 0.0 if absent or node_facts.constant(node, index) is not None else bound


def data_only(bound: float | Callable[[ir.Node], float | None] | None) -> Bound:
    """Only the first input carries data; all others are shapes, axes or parameters.

    Parameters that are not constant have no bound: a shape or an axis that changes is another operator.
    """

    def lipschitz(node: ir.Node) -> tuple[float | None, ...]:
        first = bound(node) if callable(bound) else bound
        return first, *(constant_or(node, i, None) for i in range(1, len(node.inputs)))

    return lipschitz


def independent(node: ir.Node) -> tuple[float | None, ...]:
    """The outputs do not depend on the values of any input, at most on shapes."""
    return (0.0,) * len(node.inputs)


def broadcast(node: ir.Node, index: int) -> float | None:
    """Norm of broadcasting input ``index`` to the first output's shape: sqrt(how often it is repeated)."""
    others = [
        node_facts.dims(value) for i, value in enumerate(node.inputs) if i != index and value is not None
    ]

    def alone(back: int) -> bool:
        """All other operands have one element along this axis, so that it is that of ``index``."""
        return all(dims is not None and (len(dims) < back or dims[-back] == 1) for dims in others)

    return stretched(node_facts.input_of(node, index), node.outputs[0], alone)


def stretched(
    value: ir.Value | None, output: ir.Value, kept: Callable[[int], bool] = lambda back: False
) -> float | None:
    """sqrt of how often elements are repeated where axes of one element get longer and new ones come in
    front.

    ``kept`` says of an axis, counted from behind, that it is as long as before whatever is known of its
    length.
    """
    mine, whole = node_facts.dims(value), node_facts.dims(output)
    if mine is None or whole is None or len(mine) > len(whole):
        return None
    times = 1
    for back, length in enumerate(reversed(whole), start=1):
        if back <= len(mine) and (same_length(value, output, -back) or kept(back)):
            continue
        if length is None or (back <= len(mine) and mine[-back] != 1):
            return None
        times *= length
    return math.sqrt(times)


def same_length(a: ir.Value | None, b: ir.Value | None, axis: int) -> bool:
    """Whether this axis of ``a`` is as long as that of ``b`` in every run: the same number or symbol."""
    n, m = _length(a, axis), _length(b, axis)
    return n is not None and n == m


def _length(value: ir.Value | None, axis: int) -> int | str | None:
    """A number, a symbol, or None."""
    known = None if value is None else node_facts.dims(value)
    if value is None or known is None:
        return None
    if known[axis] is not None:
        return known[axis]
    shape = value.meta.get(node_facts.INFERRED) or value.shape
    symbol = None if shape is None else shape[axis]
    return symbol.value if isinstance(symbol, ir.SymbolicDim) else None


def pointwise(bound: float | None) -> Bound:
    """The same bound for all inputs of an operator that broadcasts them."""

    def lipschitz(node: ir.Node) -> tuple[float | None, ...]:
        return tuple(_scaled(node, i, bound) for i in range(len(node.inputs)))

    return lipschitz


def _scaled(node: ir.Node, index: int, bound: float | None) -> float | None:
    factor = None if bound is None else broadcast(node, index)
    return constant_or(node, index, None if bound is None or factor is None else bound * factor)


def largest(node: ir.Node, index: int) -> float | None:
    """Largest absolute value of a constant input, else None."""
    values = node_facts.array(node, index)
    if values is None or values.size == 0:
        return None
    return float(np.abs(values.astype(np.float64)).max())


def most_often(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> float:
    """sqrt of how often the most frequent value occurs."""
    if values.size == 0:
        return 0.0
    return math.sqrt(int(np.unique(values, return_counts=True)[1].max()))
