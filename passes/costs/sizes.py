"""Sizes of axes and values as polynomials of how many channels each group keeps.

Elements of an axis that go with channels of one group are that group's count times a whole number, products
of groups (heads x widths) multiply, and what stands in a row (Concat) adds up. A value has the product of the
sizes of its axes.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.channels.coupling import Coupling
from obs_onnx.passes.costs.polynomials import Polynomial, Terms, add, multiply
from obs_onnx.passes.traits.atoms import Labels

__all__ = ["Sizes"]


class Sizes:
    """Sizes of one model, at the concrete sizes of its coupling.

    Attributes:
        full: number of channels of each group.
    """

    def __init__(self, coupling: Coupling) -> None:
        self.full = {group.id: group.n for group in coupling.groups}
        self._coupling = coupling
        self._known: dict[int, Terms] = {}

    def axis(self, labels: Labels) -> Terms:
        """Number of elements of an axis: one term for each set of groups that its elements go with."""
        if (known := self._known.get(id(labels))) is not None:
            return known
        if not labels.shape[1]:
            return {(): len(labels)}
        groups = self._coupling.groups_along(labels)
        found: Terms = {}
        for members, number in zip(*np.unique(groups, axis=0, return_counts=True), strict=True):
            present = [int(group) for group in members if group >= 0]
            whole = math.prod(self.full[group] for group in present)
            add(found, multiply({((group, 1),): 1} for group in present), _whole(int(number), whole))
        self._known[id(labels)] = found
        return found

    def elements(self, value: ir.Value) -> Terms | None:
        """Number of elements of a value; None where its shape is not known."""
        axes = self._coupling.axes(value)
        return None if axes is None else multiply(self.axis(labels) for labels in axes)

    def scaled(self, value: ir.Value, dense: float) -> Terms:
        """A quantity that is ``dense`` for the dense value and in proportion to its elements."""
        elements = self.elements(value)
        whole = Polynomial(elements, self.full).value({}) if elements else 0.0
        if not elements or not whole:
            return {(): dense}
        return {term: coefficient * dense / whole for term, coefficient in elements.items()}


def _whole(a: int, b: int) -> float:
    return a // b if a % b == 0 else a / b
