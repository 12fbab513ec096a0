"""What initializers hold as numbers, be they stored as integers or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.traits.relation import Graph, Operand

__all__ = ["Numbers", "spread"]

T = TypeVar("T", bound=np.generic)


class Numbers:
    """Weights of a model as numbers.

    Args:
        graph: of a model, whose operators say which inputs are integers, and what they stand for.
    """

    def __init__(self, graph: Graph) -> None:
        self._concrete = graph.concrete
        self._integers: dict[str, tuple[ir.Node, Operand]] = {}
        self._parameters: set[str] = set()
        for node, one in graph.operands:
            value = node_facts.input_of(node, one.slot)
            if value is not None and (one.scale is not None or one.zero is not None):
                self._integers[str(value.name)] = node, one
            for slot in (one.scale, one.zero):
                parameter = None if slot is None else node_facts.input_of(node, slot)
                if parameter is not None:
                    self._parameters.add(str(parameter.name))

    def of(self, name: str, array: NDArray[np.generic]) -> NDArray[np.float64] | None:
        """What the initializer ``name`` stands for when it holds ``array``, of the same shape.

        None for scales and zero points, and for integers whose scales are not known.
        """
        if name in self._parameters or array.dtype == object:
            return None
        if array.dtype.kind not in "iub" and name not in self._integers:
            return array.astype(np.float64)
        node, one = self._integers.get(name, (None, None))
        if node is None or one is None:
            return None
        scale, zero = self._parameter(node, one.scale), self._parameter(node, one.zero)
        if scale is None:
            return None
        found = array.astype(np.float64)
        if zero is not None:
            found -= spread(zero, found.shape, one.axes, one.block)
        return found * spread(scale, found.shape, one.axes, one.block)

    def zeros(self, name: str, array: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Where the initializer ``name`` stands for zero when it holds ``array``; nowhere if that is not
        known."""
        node, one = self._integers.get(name, (None, None))
        if node is None or one is None or one.zero is None or node_facts.input_of(node, one.zero) is None:
            return np.asarray(array == 0)
        zero = self._parameter(node, one.zero)
        if zero is None:
            return np.zeros(array.shape, bool)
        return np.asarray(array == spread(zero, array.shape, one.axes, one.block))

    def _parameter(self, node: ir.Node, slot: int | None) -> NDArray[np.float64] | None:
        value = None if slot is None else node_facts.input_of(node, slot)
        held = self._concrete.constant(value)
        return None if held is None else held.astype(np.float64)


def spread(parameter: NDArray[T], shape: Sequence[int], axes: Sequence[int], block: int = 0) -> NDArray[T]:
    """Scales or zero points as they are broadcast against integers.

    Args:
        parameter: a single one; or one for each element of ``axes``; or of the rank of the integers.
        shape: of the integers.
        axes, block: see :class:`obs_onnx.passes.traits.relation.Operand`.
    """
    if parameter.size == 1:
        return parameter.reshape((1,) * len(shape))
    if parameter.ndim < len(shape):
        wide = [1] * len(shape)
        for axis, n in zip(axes, parameter.shape, strict=False):
            wide[axis] = n
        return parameter.reshape(wide)
    for axis in axes if block else ():
        parameter = np.repeat(parameter, block, axis=axis).take(range(shape[axis]), axis=axis)
    return parameter
