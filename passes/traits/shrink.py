"""How a node follows when elements of its axes are gone: what the tables leave behind for removal.

All shape arithmetic of the graph keeps giving the dense sizes (removal corrects Shape and Size at their
source), so that an operand only has to be turned from its dense value into the wanted one, and only
here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.graph.writer import Writer, take_over
from obs_onnx.passes.shapes.concrete import Concrete
from obs_onnx.passes.shapes.shape_arithmetic import Array
from obs_onnx.passes.traits.atoms import Labels, is_joined

__all__ = ["Shrink"]


class Shrink:
    """One node during removal.

    Attributes:
        alive: for labels of an axis, which elements stay (bool, one per element).
        write: makes new nodes in front of this one.
    """

    def __init__(
        self,
        names: Names,
        node: ir.Node,
        concrete: Concrete,
        alive: Callable[[Labels], NDArray[np.bool_]],
    ) -> None:
        self.write, self.node, self.concrete, self.alive = Writer(names, node), node, concrete, alive

    def count(self, labels: Labels) -> int:
        """Elements that stay."""
        return int(self.alive(labels).sum())

    def changed(self, labels: Labels) -> bool:
        """True when an element of the axis is gone."""
        return not bool(self.alive(labels).all())

    def shape(self, axes: Sequence[Labels]) -> tuple[int, ...]:
        """Sizes of axes after removal."""
        return tuple(self.count(labels) for labels in axes)

    def attribute(self, name: str, value: int | float | Sequence[int]) -> None:
        """Set an attribute of the node."""
        kind = (
            ir.AttrFloat32
            if isinstance(value, float)
            else ir.AttrInt64
            if isinstance(value, int)
            else ir.AttrInt64s
        )
        self.node.attributes[name] = kind(name, value)  # type: ignore[arg-type]

    def dense(self, slot: int) -> Array:
        """Array of input ``slot`` at the dense sizes."""
        value = self.node.inputs[slot]
        assert value is not None
        constant = self.concrete.constant(value)
        return self.concrete.values[value] if constant is None else constant

    def operand(self, slot: int, wanted: Array, axes: Sequence[Labels] = (), one_free: bool = False) -> None:
        """Make input ``slot``, whose dense value is known, hold ``wanted`` instead.

        An input that is the same in every run becomes a new constant. Otherwise each element that varies
        follows the size of its axis, and the others are replaced; with ``one_free`` a single varying element
        may be left to Reshape as -1.

        Args:
            slot: of the input.
            wanted: what it has to hold at the concrete sizes.
            axes: for each element the resolved labels of the axis whose size it is, where any varies.
            one_free: whether -1 may stand for one element.
        """
        value = self.node.inputs[slot] if slot < len(self.node.inputs) else None
        if value is None:
            self._insert(slot, np.asarray(wanted, np.int64))
            return
        constant, dense = self.concrete.constant(value), self.dense(slot)
        wanted = np.asarray(wanted, dense.dtype)
        if wanted.shape == dense.shape and np.array_equal(wanted, dense):
            return
        marks = np.zeros(dense.shape, bool) if constant is not None else self.concrete.marks[value]
        if not marks.any():
            self._insert(slot, wanted)
        elif one_free and marks.sum() == 1 and -1 not in wanted[~marks]:
            self._insert(slot, np.where(marks, np.array(-1, dense.dtype), wanted))
        else:
            self.node.replace_input_with(slot, self.turned(value, dense, wanted, marks, axes))

    def turned(
        self,
        value: ir.Value,
        now: Array,
        wanted: Array,
        marks: NDArray[np.bool_],
        axes: Sequence[Labels],
        behind: bool = False,
    ) -> ir.Value:
        """A value that is ``wanted`` where ``value`` is ``now``.

        An element that varies keeps its ratio, or its difference where its axis joins elements of a constant
        number with others; one that does not vary is replaced.
        """
        offset = np.reshape([is_joined(labels) for labels in axes] or False, (-1,) if axes else ())
        offset = marks & np.broadcast_to(offset, marks.shape)
        ratio = marks & (now != wanted) & ~offset
        common = np.maximum(np.gcd(wanted, now), 1)
        times = np.where(ratio, wanted // common, np.where(marks, 1, 0))
        over = np.where(ratio, now // common, 1)
        plus = np.where(offset, wanted - now, np.where(marks, 0, wanted))
        for op_type, operand in (("Mul", times), ("Div", over), ("Add", plus)):
            if (operand != (0 if op_type == "Add" else 1)).any():
                by = self.write.constant(operand.astype(now.dtype))
                value = self.write.op(op_type, [value, by], behind=behind)
        return value

    def gather(self, slot: int, axis: int, index: NDArray[np.int64]) -> None:
        """Put a Gather of constant ``index`` before input ``slot``."""
        picked = [self.node.inputs[slot], self.write.constant(index)]
        self.node.replace_input_with(slot, self.write.op("Gather", picked, ir.AttrInt64("axis", axis)))

    def replace(self, value: ir.Value) -> None:
        """Let ``value`` serve in place of the node's first output, and drop the node."""
        take_over(self.write.names, self.node.outputs[0], value)
        self.write.graph.remove(self.node, safe=True)

    def _insert(self, slot: int, array: Array) -> None:
        if slot >= len(self.node.inputs):
            self.node.resize_inputs(slot + 1)
        self.node.replace_input_with(slot, self.write.constant(array))
