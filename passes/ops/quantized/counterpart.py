"""An operator on integers by its counterpart on numbers: the same axes, with scales and zero points beside.

Each tensor of integers comes with a scale and a zero point: one for all of it, which says nothing about
channels, or one for each element of an axis, which goes with that axis. Everything else is what the operator
on numbers does (:func:`counterpart`). A removed element counts as nothing, which in integers is the zero
point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from obs_onnx.passes.traits.relation import Freeze, Operand, Relation

__all__ = ["counterpart", "in_threes", "ranged", "tie_parameters"]


def counterpart(rule: Callable[[Relation], None], *operands: Operand) -> Callable[[Relation], None]:
    """The rule of an operator on integers.

    Args:
        rule: of the operator on numbers.
        operands: its inputs, in its order, where they stand among those of the operator on integers. Inputs
            that are none of them, and no parameters of theirs, keep all their elements.
    """

    def relate(r: Relation) -> None:
        if r.integer("channels_last"):
            raise Freeze("its channels stand last")
        rule(r.among(operands))
        for one in operands:
            tie_parameters(r, one)

    return relate


def tie_parameters(r: Relation, one: Operand) -> None:
    """Scales and zero points lie along axes of the integers, or are of the same rank; single ones say
    nothing."""
    for slot in (one.scale, one.zero):
        if slot is None or not r.has(slot) or not one.axes:
            continue
        if not any(n > 1 for n in r.graph.concrete.shapes.get(r.value(slot), ())):
            continue
        along, axes = r.axes(slot), r.axes(one.slot)
        if len(along) == len(axes):
            r.broadcast([axes, along])
        else:
            for labels, axis in zip(along, one.axes, strict=False):
                if len(labels) > 1:
                    r.tie(axes[axis], labels)


def in_threes(r: Relation, first: int) -> Sequence[Operand]:
    """Operand with scale and zero point, as often as there are inputs from ``first`` on."""
    return [Operand(slot, slot + 1, slot + 2) for slot in range(first, len(r.node.inputs), 3)]


def ranged(r: Relation, slot: int = 0) -> None:
    """The smallest and largest number of an input, or zero, say into which integers all of it is turned.

    Without its removed elements that is what it is with zeros in their places.
    """
    for axis in range(len(r.axes(slot))):
        r.mix(slot, axis, "range")
