"""What a rule may use to differentiate one node: the vocabulary of ``vjp``.

For ``y = f(x)`` and a loss L, a rule turns dL/dy into dL/dx = (dy/dx)^T dL/dy: it asks for the gradients of
the outputs with :meth:`Vjp.gy`, writes nodes with the methods of :class:`Emitter`, and hands each gradient
of an input to :meth:`Vjp.give`. A rule for ``Mul``::

    def _mul(v: Vjp) -> None:
        (a, b), gy = v.two(), v.gy()
        if v.wants(0):
            v.give(0, v.sum_to(v.mul(gy, b), a))
        if v.wants(1):
            v.give(1, v.sum_to(v.mul(gy, a), b))

What a rule must know:

* It is called only when a gradient arrives at one output at least; ``gy()`` of an operator with one output is
  never None there.
* Every input that is wanted must be given a gradient, or be stopped: :meth:`Vjp.stop` says that no gradient
  flows there by definition (a scale of Resize, an integer). Doing neither is an error that names both.
* An operator with bodies also gives gradients to what they read of outer graphs: :meth:`Vjp.give_outer`.
* Everything a rule writes must have a rule of its own, so that the graph can be differentiated again; write
  in terms of ``y`` where that is cheaper than ``x`` (``1 - y * y`` for Tanh).
* A given gradient has the shape of its input: broadcasts are undone with ``sum_to``.
* A case that a rule does not know ends in ``v.refuse("reason")``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.errors import GradientError
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.emitter import Emitter
from obs_onnx.passes.shapes.shape_arithmetic import Array, evaluate

__all__ = ["Differentiation", "Vjp"]

_SMALL = 1024  # elements of a constant from which integers may be computed


@dataclass(frozen=True)
class Differentiation:
    """The differentiation that calls a rule, for rules whose operator stands for several nodes.

    Attributes:
        backpropagate: (emitter, seeds, wrt) -> gradient of the sum of <value, seed> with respect to each of
            ``wrt``, None where nothing flows.
        influenced: (nodes, wrt) -> ``wrt`` and the values computed from them through which gradients flow.
    """

    backpropagate: Callable[[Emitter, Mapping[ir.Value, ir.Value], Sequence[ir.Value]], list[ir.Value | None]]
    influenced: Callable[[Sequence[ir.Node], Iterable[ir.Value]], set[ir.Value]]


@dataclass(frozen=True)
class Vjp(Emitter):
    """One node, the gradients of its outputs, and a place for the gradients of its inputs.

    Attributes:
        of: the node that is differentiated.
        grads: gradients of the outputs, by position, where one arrives.
        wanted: positions of the inputs whose gradient is needed.
        outer: values of outer graphs that bodies of the node read and whose gradient is needed.
        given: what the rule gave, in the end a gradient (or None: stopped) for each wanted input.
        given_outer: the same for ``outer``; what is not in it got nothing.
        differentiation: that called the rule; None where a node is only written in other operators.
    """

    of: ir.Node | None = None
    grads: Mapping[int, ir.Value] = field(default_factory=dict)
    wanted: frozenset[int] = frozenset()
    outer: Sequence[ir.Value] = ()
    given: dict[int, ir.Value | None] = field(default_factory=dict)
    given_outer: dict[ir.Value, ir.Value] = field(default_factory=dict)
    differentiation: Differentiation | None = None

    @property
    def node(self) -> ir.Node:
        """The node that is differentiated; read its attributes with
        :mod:`obs_onnx.passes.graph.node_facts`."""
        assert self.of is not None
        return self.of

    def has(self, index: int) -> bool:
        """Whether input ``index`` is present."""
        return node_facts.input_of(self.node, index) is not None

    def x(self, index: int = 0) -> ir.Value:
        """Input ``index``, which must be present (see :meth:`has`)."""
        value = node_facts.input_of(self.node, index)
        assert value is not None, f"input {index} of {self.node.op_type} is absent"
        return value

    def ints_of(self, index: int) -> tuple[int, ...] | None:
        """Integers of an input that is constant, or computed from constants alone; else None."""
        if (found := node_facts.ints_input(self.node, index)) is not None:
            return found
        value = node_facts.input_of(self.node, index)
        cone = node_facts.constant_cone(value)
        if value is None or cone is None:
            return None
        known: dict[ir.Value, Array] = {}
        for node in reversed(cone):
            held = [None if x is None else _held(x, known) for x in node.inputs]
            if any(x is not None and h is None for x, h in zip(node.inputs, held, strict=True)):
                return None
            result = evaluate(node, held, [None if h is None else np.zeros(h.shape, bool) for h in held])
            if result is None:
                return None
            known[node.outputs[0]] = result[0]
        return tuple(int(n) for n in known[value].reshape(-1))

    def two(self) -> tuple[ir.Value, ir.Value]:
        """The first two inputs."""
        return self.x(0), self.x(1)

    def y(self, index: int = 0) -> ir.Value:
        """Output ``index``."""
        return self.node.outputs[index]

    def gy(self, index: int = 0) -> ir.Value:
        """Gradient of output ``index``, of its shape; zeros when none arrives (ask :meth:`arrives` first)."""
        if index not in self.grads:
            return self.filled(0.0, self.y(index))
        return self.grads[index]

    def arrives(self, index: int) -> bool:
        """Whether a gradient arrives at output ``index``."""
        return index in self.grads

    def wants(self, index: int) -> bool:
        """Whether the gradient of input ``index`` is needed."""
        return index in self.wanted

    def give(self, index: int, grad: ir.Value) -> None:
        """Add ``grad``, of the shape of input ``index``, to its gradient; ignored when that is not wanted."""
        if index not in self.wanted:
            return
        self._check(index, grad)
        before = self.given.get(index)
        self.given[index] = grad if before is None else self.add(before, grad)

    def give_outer(self, value: ir.Value, grad: ir.Value) -> None:
        """The gradient of a value that bodies of the node read, of its shape."""
        assert value not in self.given_outer
        self.given_outer[value] = self.shaped(grad, value)

    def stop(self, *indices: int) -> None:
        """No gradient flows into these inputs, by definition."""
        for index in indices:
            self.given.setdefault(index, None)

    def _check(self, index: int, grad: ir.Value) -> None:
        """The shapes agree where they are known; from then on ``grad`` has the shape of its input."""
        x = self.x(index)
        dims, expected = node_facts.dims(grad), node_facts.dims(x)
        if dims is not None and expected is not None:
            pairs = list(zip(dims, expected, strict=False))
            if len(dims) != len(expected) or any(m != n and None not in (m, n) for m, n in pairs):
                self.refuse(f"the rule gave shape {dims} for input {index} of shape {expected}")
        if expected is not None:
            self.shaped(grad, x)

    @property
    def inner(self) -> Differentiation:
        """The differentiation of nodes that the rule wrote, or that lie in a body."""
        if self.differentiation is None:
            self.refuse("it can only be differentiated as a part of a gradient")
        return self.differentiation

    def refuse(self, reason: str) -> NoReturn:
        """Say that this node cannot be differentiated, and why."""
        raise GradientError(f"no gradient for node {self.node.name!r} ({self.node.op_type}): {reason}")


def _held(value: ir.Value, known: Mapping[ir.Value, Array]) -> Array | None:
    if value.const_value is not None and value.const_value.size <= _SMALL:
        return value.const_value.numpy()
    return known.get(value)
