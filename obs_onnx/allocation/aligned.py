"""Allocation under which widths that several groups make together are multiples of a number.

A concatenation of 20 and 12 channels is a multiple of 8 as it is, and with 16 and 8, but not with 16 and 12:
either none of its parts changes, or all those change that are no multiples themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from obs_onnx.allocation.channels import Allocation, Quantum
from obs_onnx.allocation.curves import Curve
from obs_onnx.passes.costs.model_costs import Cost
from obs_onnx.passes.costs.widths import Sum, Widths

__all__ = ["Share", "allocate_aligned"]

Limits = Sequence[tuple[Cost, float]]


class Share(Protocol):
    """An allocation that knows groups alone; see :func:`obs_onnx.allocation.channels.allocate_channels`."""

    def __call__(
        self,
        curves: Mapping[int, Curve],
        limits: Limits,
        quantum: int | Mapping[int, Quantum] = 1,
        reduced: Collection[int] = (),
    ) -> Allocation:
        """Kept counts."""


def allocate_aligned(
    share: Share,
    curves: Mapping[int, Curve],
    limits: Limits,
    quantum: Mapping[int, Quantum],
    widths: Widths | None,
) -> Allocation:
    """Kept counts under which all sums of widths hold.

    Where a sum does not, groups that are no multiples of their steps are made to keep some, or if that does
    not help, to stay whole, and in the end all groups of the sum are, until all hold. Leaving them whole at
    once is tried as well, and the allocation that meets the limits with less damage is taken.

    Args:
        share: how counts are chosen.
        curves, limits, quantum: for it.
        widths: what has to hold; None: nothing.
    """
    if widths is None or not widths.sums:
        return share(curves, limits, quantum)
    found = _repaired(share, curves, limits, quantum, widths, smaller=True)
    whole = _repaired(share, curves, limits, quantum, widths, smaller=False)
    return min(found, whole, key=lambda one: (not one.met, one.damage if one.met else 0.0))


def _repaired(
    share: Share,
    curves: Mapping[int, Curve],
    limits: Limits,
    quantum: Mapping[int, Quantum],
    widths: Widths,
    *,
    smaller: bool,
) -> Allocation:
    """Kept counts, with groups of broken sums made ``smaller`` where that can help, or left whole."""
    quantum, reduced = dict(quantum), set[int]()
    while True:
        found = share(curves, limits, quantum, reduced)
        broken = [one for one in widths.sums if not one.holds(found.kept, widths.multiple)]
        if not broken:
            return found
        odd = [_odd(one, found, curves, widths) - reduced if smaller else set() for one in broken]
        reduced.update(*odd)
        for one, several in zip(broken, odd, strict=True):
            if not several:
                uneven = {g for g in one.groups if g in curves and curves[g].size % widths.steps[g]}
                whole = {g for g in uneven if quantum.get(g) != ()} or set(one.groups)
                reduced -= whole
                quantum |= dict.fromkeys(whole, ())


def _odd(one: Sum, found: Allocation, curves: Mapping[int, Curve], widths: Widths) -> set[int]:
    """Groups of a sum that are whole, are no multiples of their steps, and could keep some."""
    whole = {group for group in one.groups if group in curves and found.kept[group] == curves[group].size}
    return {
        group
        for group in whole
        if widths.steps[group] < curves[group].size and curves[group].size % widths.steps[group]
    }
