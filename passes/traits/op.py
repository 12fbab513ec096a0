"""The record of everything known about one operator.

Each family file describes its operators by small functions and ends in a table ``TABLE`` that
maps ``op_type`` (or ``domain::op_type`` outside the default domain) to one :class:`Op`.
A function that is None means *not known*: callers report the operator, they never guess.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.traits.known import Known
from obs_onnx.passes.traits.linear import Linear
from obs_onnx.passes.traits.relation import Freeze, Relation
from obs_onnx.passes.traits.vjp import Vjp

__all__ = ["Op", "differentiable", "key", "nothing", "related", "without_rules"]


@dataclass(frozen=True)
class Op:
    """What is known about one operator.

    Attributes:
        linear: how the node multiplies its input by a constant weight, or the reason (a string)
            why it is left alone, or None where no input is a constant weight.
        macs: multiply-accumulates of one run, from the static shapes (a symbolic dimension counts as one).
        lipschitz: for each input, an upper bound of the Lipschitz constant (Euclidean norm of the whole
            tensor) of the outputs with respect to it; None for an input without one.
        relate: which elements of the axes of inputs and outputs live or die together, which may not die, and
            how attributes and operands shrink; raises Freeze where it does not know.
        vjp: vector-Jacobian product: from the gradients of the outputs, nodes for those of the inputs;
            :func:`nothing` where no gradient flows by definition.
        differentiable_inputs: how many inputs, from the first on, gradients flow to; the others may be of
            floating-point type, but say sizes or types. None: all.
        weights, biases: positions of the inputs that hold a weight, or its bias, where they are constant;
            of linear operators whose weights may be pruned.
        learnt: positions of other inputs that training changes: scales, shifts, slopes, recurrent weights.
        decides: the outputs are decisions on numbers (an index, a comparison, a rounded number), which a
            difference as small as one of rounding can turn into others.
        chooses: these decisions say which elements there are, and how many: an index, the largest ones.
        idempotent: applied to its own result with the same parameters, it changes nothing.
        annihilates: positions of inputs a zero of which makes the element of the output what it is without
            the other inputs (a factor).
        additive: the output is linear in all inputs together, in the same way for all elements (a sum, a mean
            over places).
        caches: positions of an input of past keys or values and of the output that gives them with new ones.
        states: positions of an input that holds a state, of a size of its own, and of the output that gives
            the next one.
        joins: the output is the inputs in a row, which do not meet.
        view: the output is the first input in another shape, so that it needs no memory of its own.
        shape_only: the outputs depend on the shapes of the inputs alone.
        random: the outputs are drawn anew in every run.
        quantizes: turns numbers into integers of few bits, or such integers back into numbers.
        known: the versions, attributes and inputs that all of this was written for.
        foreign: why a node is more than that; then its rules say so (see :func:`without_rules`).
    """

    linear: Callable[[ir.Node], Linear | str | None] | None = None
    macs: Callable[[ir.Node], int] | None = None
    lipschitz: Callable[[ir.Node], tuple[float | None, ...]] | None = None
    relate: Callable[[Relation], None] | None = None
    vjp: Callable[[Vjp], None] | None = None
    differentiable_inputs: int | None = None
    weights: tuple[int, ...] = ()
    biases: tuple[int, ...] = ()
    learnt: tuple[int, ...] = ()
    decides: bool = False
    chooses: bool = False
    idempotent: bool = False
    annihilates: tuple[int, ...] = ()
    additive: bool = False
    caches: tuple[tuple[int, int], ...] = ()
    states: tuple[tuple[int, int], ...] = ()
    joins: bool = False
    view: bool = False
    shape_only: bool = False
    random: bool = False
    quantizes: bool = False
    known: Known | None = None
    foreign: str | None = None


def key(node: ir.Node) -> str:
    """Name of the node's operator in the tables."""
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def nothing(v: Vjp) -> None:
    """The ``vjp`` of operators whose outputs are integers, truth values, or constant almost everywhere."""


def without_rules(op: Op, reason: str) -> Op:
    """``op`` for a node that is more than its rules know: each of them only says so, by ``reason``."""

    def linear(node: ir.Node) -> str | None:
        held = any(node_facts.constant(node, index) is not None for index in op.weights)
        return reason if held else None

    def relate(relation: Relation) -> None:
        raise Freeze(reason)

    def vjp(v: Vjp) -> None:
        v.refuse(reason)

    return replace(
        op,
        linear=linear if op.weights else op.linear,
        macs=None,
        lipschitz=None,
        relate=op.relate and relate,
        vjp=op.vjp and vjp,
        idempotent=False,
        view=False,
        shape_only=False,
        foreign=reason,
    )


def related(table: Mapping[str, Op], rules: Mapping[Callable[[Relation], None], str]) -> dict[str, Op]:
    """``table`` with ``relate`` set: each rule comes with the names of its operators, separated by blanks."""
    named = {name: rule for rule, names in rules.items() for name in names.split()}
    return {**table, **{name: replace(table.get(name, Op()), relate=rule) for name, rule in named.items()}}


def differentiable(table: Mapping[str, Op], rules: Mapping[Callable[[Vjp], None], str]) -> dict[str, Op]:
    """``table`` with ``vjp`` set: each rule comes with the names of its operators, separated by blanks."""
    named = {name: rule for rule, names in rules.items() for name in names.split()}
    return {**table, **{name: replace(table.get(name, Op()), vjp=rule) for name, rule in named.items()}}
