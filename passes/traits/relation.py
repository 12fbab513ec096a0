"""What an operator's table may say about channels: the vocabulary of ``relate``.

A ``relate`` function looks at one node through a :class:`Relation`. It ties the axes of the inputs, gives
labels to the axes of the outputs, names the axes over which elements mix, and leaves behind how the node's
own attributes and operands shrink. It raises :class:`Freeze` where it does not know: then nothing that
touches the node may die.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph.usage import is_used
from obs_onnx.passes.shapes.concrete import Concrete
from obs_onnx.passes.shapes.shape_arithmetic import Array
from obs_onnx.passes.traits.atoms import Atoms, Labels, fixed, product
from obs_onnx.passes.traits.shrink import Shrink

__all__ = ["Freeze", "Graph", "Mix", "Operand", "Relation", "Restated"]


class Freeze(Exception):  # noqa: N818 - a signal, not an error
    """What touches the node stays as it is; the message says why."""


@dataclass(frozen=True)
class Operand:
    """An input of integers, and where it is said what numbers they stand for.

    Attributes:
        slot: of the integers.
        scale, zero: inputs with their scales and zero points; None where the operator has none.
        axes: of the integers, along which those of scales and zero points lie where there are several;
            empty where the operator takes single ones.
        block: how many integers in a row along these axes share scale and zero point; 0: each has its own.
    """

    slot: int
    scale: int | None = None
    zero: int | None = None
    axes: tuple[int, ...] = ()
    block: int = 0


@dataclass(frozen=True)
class Mix:
    """An input whose elements along one axis are combined, so that removed ones must be silenced before.

    Attributes:
        kind: ``sum`` (they count as 0), ``mean`` (likewise, and the result is scaled), ``low``, ``high``,
            ``one`` (neutral elements of maximum, minimum, product), ``normalize``, ``rms`` (statistics of the
            others), ``range`` (they count as 0 among the smallest and the largest).
        deviation: the output that holds one over the deviation, of operators that give it.
        operand: says what stands for 0, where the input holds integers.
    """

    node: ir.Node
    slot: int
    axis: int
    kind: str
    labels: Labels
    deviation: int | None = None
    operand: Operand | None = None


@dataclass(frozen=True)
class Restated:
    """An axis of varying size that other values restate, and that they have to follow when it shrinks.

    Attributes:
        node: whose operand or result is the size.
        alone: whether it is the size itself; otherwise it is multiplied by others.
    """

    node: ir.Node
    labels: Labels
    alone: bool


@dataclass
class Graph:
    """All that has been said about a graph so far.

    Attributes:
        caches: inputs that may lose elements.
        operands: inputs of integers by node, and where it is said what numbers they stand for.
    """

    atoms: Atoms
    concrete: Concrete
    opset: int
    labels: dict[ir.Value, list[Labels]] = field(default_factory=dict)
    mixes: list[Mix] = field(default_factory=list)
    shrinks: list[tuple[ir.Node, Callable[[Shrink], None]]] = field(default_factory=list)
    frozen: list[tuple[ir.Node, str]] = field(default_factory=list)
    restated: list[Restated] = field(default_factory=list)
    caches: frozenset[ir.Value] = frozenset()
    operands: list[tuple[ir.Node, Operand]] = field(default_factory=list)

    def axes(self, value: ir.Value) -> list[Labels] | None:
        """Labels of every axis of ``value``; None while its shape is unknown."""
        if value not in self.labels and value in self.caches:
            self.labels[value] = self._of_cache(value)
        if value not in self.labels:
            shape = self.concrete.shapes.get(value)
            if shape is None:
                return None
            constant = self.concrete.holds(value) and not value.is_graph_output() and 0 not in shape
            self.labels[value] = [self.atoms.fresh(n) if constant else fixed(n) for n in shape]
        return self.labels[value]

    def _of_cache(self, value: ir.Value) -> list[Labels]:
        """Labels of an input that may lose elements of axes whose size is the same in every run."""
        varies = self.concrete.dynamic[value]
        shape = self.concrete.shapes[value]
        return [fixed(n) if moves else self.atoms.fresh(n) for n, moves in zip(shape, varies, strict=True)]

    def fix(self, node: ir.Node, axes: Sequence[Labels], reason: str | None) -> None:
        """No element of ``axes`` may die; a reason is kept when one could have."""
        if sum(self.atoms.freeze(labels) for labels in axes) and reason is not None:
            self.frozen.append((node, reason))


class Relation:
    """One node, its inputs and outputs, and everything that can be said about their axes.

    Attributes:
        asked: inputs that a rule has asked for.
        absent: labels of what is said not to reach the outputs.
    """

    def __init__(
        self, node: ir.Node, graph: Graph, inputs: Mapping[int, Sequence[Labels]] | None = None
    ) -> None:
        self.node, self.graph, self.atoms = node, graph, graph.atoms
        self.asked: set[int] = set()
        self.absent: list[Labels] = []
        self._inputs = inputs
        self._operands: Sequence[Operand] | None = None
        self.opset = graph.opset if node.version is None else node.version

    def among(self, operands: Sequence[Operand]) -> Relation:
        """The same node, seen as one that has ``operands`` alone for its inputs."""
        seen = Relation(self.node, self.graph, self._inputs)
        seen.asked, seen.absent, seen._operands = self.asked, self.absent, operands
        self.graph.operands += [(self.node, one) for one in operands]
        return seen

    def _operand(self, slot: int) -> Operand:
        if self._operands is None:
            return Operand(slot)
        return self._operands[slot] if slot < len(self._operands) else Operand(len(self.node.inputs))

    def has(self, slot: int) -> bool:
        """True when input ``slot`` is present."""
        place = self._operand(slot).slot
        return place < len(self.node.inputs) and self.node.inputs[place] is not None

    def value(self, slot: int) -> ir.Value:
        """Input number ``slot``."""
        value = self.node.inputs[self._operand(slot).slot]
        assert value is not None
        return value

    def axes(self, slot: int) -> list[Labels]:
        """Labels of the axes of input ``slot``; inputs that are never asked for keep all their elements."""
        place = self._operand(slot).slot
        self.asked.add(place)
        if self._inputs is not None:
            return list(self._inputs[place])
        axes = self.graph.axes(self.value(slot))
        if axes is None:
            raise Freeze(f"the shape of {self.value(slot).name} is not known")
        return axes

    def used(self, index: int) -> bool:
        """True when output ``index`` is there and something reads it, be it the caller of the model."""
        return index < len(self.node.outputs) and is_used(self.node.outputs[index])

    def is_shaped(self, index: int) -> bool:
        """True when output ``index`` is used, or there with a known shape."""
        there = index < len(self.node.outputs) and self.node.outputs[index] in self.graph.concrete.shapes
        return self.used(index) or there

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """Concrete shape of output ``index``."""
        shape = self.graph.concrete.shapes.get(self.node.outputs[index])
        if shape is None:
            raise Freeze("the shape of its output is not known")
        return shape

    def dynamic(self, slot: int, axis: int) -> bool:
        """True when the size of this axis of an input differs between runs."""
        marks = self.graph.concrete.dynamic.get(self.value(slot))
        return bool(marks and marks[axis])

    def out_dynamic(self, axis: int) -> bool:
        """True when the size of this axis of the first output differs between runs."""
        marks = self.graph.concrete.dynamic.get(self.node.outputs[0])
        return bool(marks and marks[axis])

    def is_anchored(self, slot: int, axis: int) -> bool:
        """True when positions counted from the front are the same elements whatever size the axis has.

        In an axis of varying size nothing may lie before what can go: other sizes would move it.
        """
        if not self.dynamic(slot, axis):
            return True
        free = np.flatnonzero((self.atoms.resolve(self.axes(slot)[axis]) != 0).any(1))
        return np.array_equal(free, np.arange(len(free)))

    def constant(self, slot: int) -> Array | None:
        """The array of input ``slot`` when it is the same in every run, else None."""
        return self.graph.concrete.constant(self.value(slot)) if self.has(slot) else None

    def known(self, slot: int) -> tuple[Array, Array] | None:
        """The array of input ``slot`` at the concrete sizes, and which elements differ between runs."""
        if not self.has(slot):
            return None
        if (constant := self.constant(slot)) is not None:
            return constant, np.zeros(constant.shape, bool)
        concrete, value = self.graph.concrete, self.value(slot)
        return (concrete.values[value], concrete.marks[value]) if value in concrete.values else None

    def integer(self, name: str, default: int = 0) -> int:
        """An integer attribute."""
        return int(self.node.attributes.get_int(name, default))

    def integers(self, name: str) -> tuple[int, ...] | None:
        """A list attribute; None when absent."""
        given = self.node.attributes.get_ints(name, None)
        return None if given is None else tuple(int(i) for i in given)

    def give(self, axes: Sequence[Labels], index: int = 0) -> None:
        """Set the labels of output ``index``."""
        if index < len(self.node.outputs):
            output = self.node.outputs[index]
            shape = self.graph.concrete.shapes.setdefault(output, tuple(len(labels) for labels in axes))
            if shape != tuple(len(labels) for labels in axes):
                raise Freeze(f"its output has the shape {shape}, which does not follow from its inputs")
            self.graph.labels[output] = list(axes)

    def tie(self, a: Labels, b: Labels) -> None:
        """The two axes are one."""
        if len(a) != len(b):
            raise Freeze(f"axes of {len(a)} and {len(b)} elements meet")
        self.atoms.tie(a, b)

    def broadcast(self, axes: Sequence[Sequence[Labels]]) -> list[Labels]:
        """Labels after broadcasting several operands against each other, ties included."""
        out: list[Labels] = [fixed(1)] * max((len(one) for one in axes), default=0)
        for one in axes:
            for back, labels in enumerate(reversed(one), start=1):
                if len(labels) == 1:
                    continue
                if len(out[-back]) == 1:
                    out[-back] = labels
                else:
                    self.tie(out[-back], labels)
        return [self.atoms.resolve(labels) for labels in out]

    def regroup(self, axes: Sequence[Labels], sizes: Sequence[int]) -> list[Labels]:
        """Labels after a Reshape to ``sizes``: runs of axes with equal products are merged and cut again."""
        if math.prod(len(labels) for labels in axes) != math.prod(sizes) or 0 in sizes:
            raise Freeze("its sizes do not match")
        out: list[Labels] = []
        i = j = 0
        while i < len(axes) or j < len(sizes):
            start, merged, cut = i, 1, 1
            first = j
            if i < len(axes):
                merged, i = len(axes[i]), i + 1
            if j < len(sizes):
                cut, j = sizes[j], j + 1
            while merged != cut:
                if merged < cut:
                    merged, i = merged * len(axes[i]), i + 1
                else:
                    cut, j = cut * sizes[j], j + 1
            if j > first:
                out += self.atoms.split(product(axes[start:i]), sizes[first:j])
        return out

    def fix(self, labels: Labels | Sequence[Labels], reason: str | None = None) -> None:
        """No element of these axes may die."""
        self.graph.fix(self.node, [labels] if isinstance(labels, np.ndarray) else labels, reason)

    def mix(self, slot: int, axis: int, kind: str = "sum", deviation: int | None = None) -> None:
        """Elements of input ``slot`` along ``axis`` are combined into others."""
        axis %= len(self.axes(slot))
        labels = self.axes(slot)[axis]
        dtype = self.graph.concrete.dtypes.get(self.value(slot))
        if self.dynamic(slot, axis):
            self.fix(labels, "it combines elements along an axis of varying size")
        elif kind in ("mean", "normalize", "rms") and dtype is not None and not dtype.is_floating_point():
            self.fix(labels, "it rounds a mean")
        one = self._operand(slot)
        found = Mix(self.node, one.slot, axis, kind, labels, deviation, one if one.zero is not None else None)
        self.graph.mixes.append(found)

    def leave(self, *labels: Labels) -> None:
        """Elements of these axes need not reach an output: without them the result is right all the same."""
        self.absent += labels

    def restate(self, labels: Labels, alone: bool = True) -> None:
        """The size of this axis varies between runs, and the node restates it, or a product with it."""
        self.graph.restated.append(Restated(self.node, labels, alone))

    def shrink(self, action: Callable[[Shrink], None]) -> None:
        """Leave behind how attributes and operands of the node follow when elements have died."""
        self.graph.shrinks.append((self.node, action))
