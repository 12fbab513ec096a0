"""Where the samples of a batch lie in every value of a graph, and what keeps a graph from taking more of
them.

A graph that was traced with a fixed batch says its size in many places: targets of Reshape, what is expanded,
first states of recurrent layers, a class token beside the patches. Two walks, one with the size that the
graph was made for and one with another, show node by node where the samples go. Where the second walk fails,
or runs against the order of the elements in memory, the node is mended; where there are several ways to mend
it, the first one is taken that nothing behind it contradicts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph.emitter import OLDEST, Emitter
from obs_onnx.passes.graph.inputs import real_inputs
from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.graph.scopes import reads
from obs_onnx.passes.graph.usage import is_used
from obs_onnx.passes.ops import lookup
from obs_onnx.passes.shapes.concrete import Sizes, Walk
from obs_onnx.passes.shapes.shape_arithmetic import Array

__all__ = ["BatchAxis", "BatchSearch"]

_PRIMES = (7, 11)  # samples of the second walk
_VISITS = 20  # of each node, on average, before the search gives up
_STATES: Mapping[str, Mapping[int, int]] = {  # batch axis of operands whose sizes inference does not compare
    "LSTM": {4: 0, 5: 1, 6: 1},
    "GRU": {4: 0, 5: 1},
    "RNN": {4: 0, 5: 1},
}


@dataclass(frozen=True)
class BatchAxis:
    """Where samples lie in a value.

    Attributes:
        axis: of the value.
        before: how often the samples of the batch follow each other along the axis; 1 where each sample is
            one run of elements.
    """

    axis: int
    before: int = 1


class BatchSearch:
    """Mends a model until it takes any number of samples.

    Args:
        model: without functions and Constant nodes; changed in place. The batch axes of its inputs have the
            name ``symbol``.
        symbol: name of the batch.
        size: samples that the model was made for.
        sizes: of other symbolic dimensions.

    Attributes:
        axes: where the samples lie, for values that depend on them.
        repeats: names of the nodes that repeat something for every sample.
        targets: by the name of a Reshape with another constant target: the axis of its samples, and the name
            of the target it had.
        mended: how many nodes are not as they were.
    """

    def __init__(self, model: ir.Model, symbol: str, size: int, sizes: Sizes) -> None:
        self.axes: dict[ir.Value, BatchAxis] = {}
        self.repeats: set[str] = set()
        self.targets: dict[str, tuple[int, str]] = {}
        self.mended = 0
        self._model, self._size = model, size
        self._other = next(prime for prime in _PRIMES if prime != size)
        self._walks = [Walk(model, sizes, {symbol: n}) for n in (size, self._other)]
        self._fixed = all(
            isinstance(dim, int) or dim.value == symbol
            for value in real_inputs(model)
            for dim in value.shape or ()
        )
        self._emitter = Emitter(model, Names(model), "batch")
        self._touched: set[ir.Value] = set()
        self._targets: dict[tuple[ir.Value, tuple[int, ...]], ir.Value] = {}
        for value in real_inputs(model):
            for axis, dim in enumerate(value.shape or ()):
                if isinstance(dim, ir.SymbolicDim) and dim.value == symbol:
                    self.axes[value] = BatchAxis(axis)
                    self._touched.add(value)

    def solutions(self) -> Iterator[None]:
        """Mend the model in one way after the other; it is as it was when there are no more."""
        nodes = list(self._model.graph)
        ways: list[Iterator[None]] = []
        visits = 0
        while True:
            while len(ways) < len(nodes):
                visits += 1
                ways.append(self._ways(nodes[len(ways)]))
                if not self._advance(ways) or visits > _VISITS * len(nodes):
                    return
            yield
            if not self._advance(ways):
                return

    @staticmethod
    def _advance(ways: list[Iterator[None]]) -> bool:
        """Go on with the last node that has another way."""
        while ways:
            if next(ways[-1], ways) is None:
                return True
            ways.pop()
        return False

    def _ways(self, node: ir.Node) -> Iterator[None]:
        """Each time one way in which the node takes more samples, done; at last the node is as it was."""
        touched = [value for value in reads(node) if value in self._touched]
        self._walks[0].node(node)
        if not touched:
            self._walks[1].take(node, self._walks[0])
            for value in node.outputs:
                self.axes.pop(value, None)
                self._touched.discard(value)
            yield
            return
        if node.op_type == "Reshape" and node.domain == "" and node.inputs[0] in self.axes:
            yield from self._reshaped(node)
            return
        states = _STATES.get(node.op_type, {}) if node.domain == "" else {}
        open_states = any(i < len(node.inputs) and self._unbatched(node.inputs[i]) for i in states)
        if not open_states and self._follows(node):
            yield
            return
        yield from self._repeated(node, states)

    def _unbatched(self, value: ir.Value | None) -> bool:
        return value is not None and value not in self.axes

    def _follows(self, node: ir.Node) -> bool:
        """Whether the node, as it is, takes more samples; then it is known where they lie in its outputs."""
        one, more = (walk.found for walk in self._walks)
        self._walks[1].node(node)
        if node in more.unknown and node not in one.unknown:
            return False
        inputs = [value for value in node.inputs if value in self.axes]
        found: dict[ir.Value, BatchAxis | None] = {}
        for value in node.outputs:
            if not is_used(value):
                continue
            a, b = one.shapes.get(value, ()), more.shapes.get(value, ())
            differ = [axis for axis, (m, n) in enumerate(zip(a, b, strict=False)) if m != n]
            if len(a) != len(b) or len(differ) > 1:
                return False
            if differ and a[differ[0]] * self._other != b[differ[0]] * self._size:
                return False
            found[value] = BatchAxis(differ[0], self._before(inputs, a[differ[0]])) if differ else None
        if inputs and not any(found.values()) and not lookup(node).shape_only:
            return False  # the samples are lost
        self._note(node, found)
        return True

    def _before(self, inputs: list[ir.Value], length: int) -> int:
        shapes = self._walks[0].found.shapes
        for value in inputs:
            own = self.axes[value]
            if own.before > 1 and shapes[value][own.axis] == length:
                return own.before
        return 1

    def _note(self, node: ir.Node, found: Mapping[ir.Value, BatchAxis | None]) -> None:
        one, more = (walk.found for walk in self._walks)
        for value in node.outputs:
            axis = found.get(value)
            self.axes.pop(value, None)
            self._touched.discard(value)
            if axis is not None:
                self.axes[value] = axis
            values = one.values.get(value), more.values.get(value)
            if axis is not None or not _equal(*values):
                self._touched.add(value)

    def _reshaped(self, node: ir.Node) -> Iterator[None]:
        """The samples stay at their place in the order of the elements, in one axis after the other."""
        one, more = (walk.found for walk in self._walks)
        x = node.inputs[0]
        assert x is not None
        shape, after = one.shapes.get(x), one.shapes.get(node.outputs[0])
        if shape is None or after is None or 0 in after:
            return
        own = self.axes[x]
        place = math.prod(shape[: own.axis]) * own.before
        starts = [math.prod(after[:axis]) for axis in range(len(after))]
        ways = [
            BatchAxis(axis, place // start)
            for axis, start in enumerate(starts)
            if place % start == 0 and after[axis] % (place // start * self._size) == 0
        ]
        ways.sort(key=lambda way: (way.before > 1, after[way.axis] != self._size))
        self._walks[1].node(node)
        natural = more.shapes.get(node.outputs[0])
        failed = node in more.unknown
        target = node.inputs[1]
        for way in ways:
            wanted = list(after)
            wanted[way.axis] = after[way.axis] // self._size * self._other
            if not failed and natural == tuple(wanted):
                self._note(node, {node.outputs[0]: way})
                yield
                continue
            added = self._retarget(node, way.axis, shape, after)
            if added is None:
                continue
            self.mended += 1
            for walk in self._walks:
                walk.node(node)
            if more.shapes.get(node.outputs[0]) == tuple(wanted) and node not in more.unknown:
                self._note(node, {node.outputs[0]: way})
                yield
            node.replace_input_with(1, target)
            self.targets.pop(str(node.name), None)
            self._drop(added)
            self.mended -= 1
            for walk in self._walks:
                walk.node(node)

    def _retarget(
        self, node: ir.Node, axis: int, before: tuple[int, ...], after: tuple[int, ...]
    ) -> list[ir.Node] | None:
        """Let the target leave one axis open; the nodes that are new, or None where that cannot be."""
        x, target = node.inputs[:2]
        assert x is not None
        assert target is not None
        own, tensor = self.axes[x].axis, target.const_value
        copies = not node.attributes.get_int("allowzero", 0)
        if tensor is not None and target.is_initializer():
            numbers = tensor.numpy().astype(np.int64).tolist()
            open_axes = [i for i, n in enumerate(numbers) if n == -1 and i != axis]
            if not open_axes:
                numbers[axis] = -1
            elif own == axis and copies and before[axis] == after[axis]:
                numbers[axis] = 0
            elif self._fixed:
                numbers[open_axes[0]], numbers[axis] = after[open_axes[0]], -1
            else:
                return self._computed(node, axis, before[own], after[axis])
            node.replace_input_with(1, self._other_target(target, tuple(numbers)))
            self.targets[str(node.name)] = axis, str(target.name)
            return []
        return self._computed(node, axis, before[own], after[axis])

    def _computed(self, node: ir.Node, axis: int, before: int, after: int) -> list[ir.Node] | None:
        """Let one element of a target be what the samples of the input ask for, at run time."""
        x, target = node.inputs[:2]
        rank = len(self._walks[0].found.shapes[node.outputs[0]])
        if self._emitter.opset < OLDEST or x is None or (before % after and after % before):
            return None
        start = len(self._model.graph)
        size = self._emitter.op(
            "Gather", self._emitter.op("Shape", x), self._emitter.ints([self.axes[x].axis]), axis=0
        )
        if after > before:
            size = self._emitter.mul(size, after // before)
        elif before > after:
            size = self._emitter.div(size, before // after)
        here = self._constant(np.arange(rank) == axis)
        node.replace_input_with(1, self._emitter.op("Where", here, size, target))
        return self._walked(start)

    def _repeated(self, node: ir.Node, states: Mapping[int, int]) -> Iterator[None]:
        """What is the same for all samples is repeated for each of them, where the node wants that."""
        batched = next((value for value in node.inputs if value in self.axes), None)
        if batched is None or self._emitter.opset < OLDEST:
            return
        shapes = self._walks[0].found.shapes
        rank, own = len(shapes[batched]), self.axes[batched].axis
        before, start = list(node.inputs), len(self._model.graph)
        for index, value in enumerate(before):
            if value is None or value in self.axes or value not in shapes:
                continue
            axis = states[index] if index in states else own - rank + len(shapes[value])
            wanted = index in states or not states
            if wanted and 0 <= axis < len(shapes[value]) and shapes[value][axis] == self._size:
                node.replace_input_with(index, self._repeat(value, axis, len(shapes[value])))
        added = self._walked(start)
        if not added:
            return
        named = {str(one.name) for one in added if one.op_type in ("Expand", "Slice")}
        self.repeats |= named
        self.mended += 1
        self._walks[0].node(node)
        if self._follows(node):
            yield
        self.repeats -= named
        self.mended -= 1
        for index, value in enumerate(before):
            node.replace_input_with(index, value)
        self._drop(added)

    def _repeat(self, value: ir.Value, axis: int, rank: int) -> ir.Value:
        """``value`` with its first slice along ``axis`` for every sample."""
        emitter = self._emitter
        source, own = next((x, found.axis) for x, found in self.axes.items() if x.is_graph_input())
        size = emitter.op("Gather", emitter.op("Shape", source), emitter.ints([own]), axis=0)
        ones = [[emitter.ints([1] * n)] if n else [] for n in (axis, rank - axis - 1)]
        parts = [*ones[0], size, *ones[1]]
        shape = emitter.op("Concat", *parts, axis=0) if len(parts) > 1 else size
        first = emitter.slice(value, [0], [1], [axis]) if self._size > 1 else value
        return emitter.op("Expand", first, shape)

    def _walked(self, start: int) -> list[ir.Node]:
        """The nodes from number ``start`` on, which are new."""
        added = list(self._model.graph)[start:]
        for value in self._model.graph.initializers.values():
            for walk in self._walks:
                if value not in walk.found.shapes:
                    walk.add(value)
        for node in added:
            self._walks[0].node(node)
            if not self._follows(node):
                self._note(node, {})
        return added

    def _other_target(self, target: ir.Value, numbers: tuple[int, ...]) -> ir.Value:
        """A constant beside ``target``; the same for all nodes that shared that one and want the same."""
        if (target, numbers) not in self._targets:
            tensor = ir.Tensor(np.array(numbers, np.int64))
            self._targets[target, numbers] = self._emitter.names.initializer(str(target.name), tensor)
            for walk in self._walks:
                walk.add(self._targets[target, numbers])
        return self._targets[target, numbers]

    def _constant(self, array: Array) -> ir.Value:
        value = self._emitter.constant(array)
        for walk in self._walks:
            walk.add(value)
        return value

    def _drop(self, nodes: list[ir.Node]) -> None:
        for node in reversed(nodes):
            for value in node.outputs:
                self.axes.pop(value, None)
                self._touched.discard(value)
            self._model.graph.remove(node, safe=True)


def _equal(a: Array | None, b: Array | None) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b)
