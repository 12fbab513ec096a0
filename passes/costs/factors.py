"""Costs of a model in which pairs of factors are multiplied out where that costs less.

A pair of rank ``r`` costs ``P(r)`` more than the one layer that it stands for, and nothing more where that is
positive: the layer is then what is written (:mod:`obs_onnx.passes.canonical.plainer.factors`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from obs_onnx.passes.costs.polynomials import Polynomial, Terms, add, multiply, power

__all__ = ["MergedPolynomial", "surplus"]


class MergedPolynomial(Polynomial):
    """``whole - sum of max(0, surplus)``: see the module.

    Args:
        terms: of the model with all pairs.
        full: number of channels of every group.
        surpluses: what each pair costs more than the layer that it stands for.
    """

    def __init__(self, terms: Terms, full: Mapping[int, int], surpluses: Sequence[Terms]) -> None:
        super().__init__(terms, full)
        self._surpluses = [Polynomial(one, full) for one in surpluses]
        self._of: dict[int, list[Polynomial]] = {}
        for one in self._surpluses:
            for group in one.groups:
                self._of.setdefault(group, []).append(one)

    def value(self, counts: Mapping[int, int]) -> float:
        """The quantity when each group keeps ``counts`` channels; a group that is missing keeps all."""
        return super().value(counts) - sum(max(one.value(counts), 0.0) for one in self._surpluses)

    def saving(self, counts: Mapping[int, int], group: int, fewer: ArrayLike) -> NDArray[np.float64]:
        """How much smaller the quantity gets when ``group`` alone keeps ``fewer`` channels instead."""
        saved = super().saving(counts, group, fewer)
        for one in self._of.get(group, ()):
            now = one.value(counts)
            saved = saved - max(now, 0.0) + np.maximum(now - one.saving(counts, group, fewer), 0.0)
        return saved

    def coupled(self, group: int) -> frozenset[int]:
        """Groups whose savings change when the count of ``group`` does, itself included."""
        near = [one.groups for one in self._of.get(group, ())]
        return super().coupled(group).union(*near)


def surplus(first: Terms, second: Terms, rank: Terms, outputs: Terms) -> Terms | None:
    """What a pair costs more than one layer.

    Args:
        first, second: costs of the factors.
        rank, outputs: of each, in channels that are kept.

    Returns:
        None where the cost of the first is not proportional to the rank.
    """
    less = power(rank, -1)
    if less is None:
        return None
    found: Terms = {}
    add(found, first)
    add(found, second)
    add(found, multiply([first, less, outputs]), -1)
    return None if any(p < 0 for term in found for _, p in term) else found
