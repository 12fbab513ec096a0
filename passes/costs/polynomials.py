"""Polynomials in the kept counts of groups: what sizes, parameters and multiply-accumulates are.

The cost of a model is a sum of terms ``c * k_a^p * k_b^q ...`` with one factor for each group that a term
depends on: a convolution from group a to group b has ``k_a * k_b``, one inside a residual stream ``k_a^2``.
Equal terms of all nodes are added up once, so that asking again takes microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Polynomial", "Term", "Terms", "add", "multiply", "power"]

Term = tuple[tuple[int, int], ...]  # (group, exponent) of each factor, groups rising; () is the constant
Terms = dict[Term, float]  # coefficient of each term


def add(total: Terms, terms: Terms, factor: float = 1) -> None:
    """``total += factor * terms``, in place."""
    for term, coefficient in terms.items():
        total[term] = total.get(term, 0) + factor * coefficient


def multiply(factors: Iterable[Terms]) -> Terms:
    """Product of several polynomials."""
    result: Terms = {(): 1}
    for factor in factors:
        product: Terms = {}
        for a, x in result.items():
            for b, y in factor.items():
                term = _times(a, b) if a and b else a or b
                product[term] = product.get(term, 0) + x * y
        result = product
    return result


def power(terms: Terms, exponent: int) -> Terms | None:
    """``terms`` to a whole power; None for a negative power of a sum, which is no polynomial."""
    if exponent >= 0:
        return multiply([terms] * exponent)
    if len(terms) != 1:
        return None
    ((term, coefficient),) = terms.items()
    return {tuple((group, p * exponent) for group, p in term): coefficient**exponent}


def _times(a: Term, b: Term) -> Term:
    exponents = dict(a)
    for group, p in b:
        exponents[group] = exponents.get(group, 0) + p
    return tuple(sorted((group, p) for group, p in exponents.items() if p))


@dataclass(frozen=True, eq=False)
class _Part:
    """The terms that one group stands in, without its own factors; T terms of at most W factors.

    Attributes:
        coefficients: of each term (T).
        others: the other groups.
        factors: which of ``others`` each factor of a term is, ``len(others)`` for none (T, W).
        exponents: of these factors (T, W); None when all are 1.
        slices: for each exponent of the group itself, the terms that have it.
    """

    coefficients: NDArray[np.float64]
    others: tuple[int, ...]
    factors: NDArray[np.intp]
    exponents: NDArray[np.float64] | None
    slices: tuple[tuple[int, slice], ...]

    @classmethod
    def of(cls, group: int | None, terms: Terms) -> _Part:
        """The part of a group; with None all terms as they are."""
        own = {term: dict(term).get(group, 0) if group is not None else 0 for term in terms}
        ordered = sorted(own, key=lambda term: (own[term], term))
        rest = [[(g, p) for g, p in term if g != group] for term in ordered]
        others = tuple(sorted({g for term in rest for g, _ in term}))
        place = {g: i for i, g in enumerate(others)}
        shape = len(rest), max(map(len, rest), default=0)
        factors, exponents = np.full(shape, len(others), np.intp), np.ones(shape)
        for t, term in enumerate(rest):
            for w, (g, p) in enumerate(term):
                factors[t, w], exponents[t, w] = place[g], p
        mine = [own[term] for term in ordered]
        slices = tuple((p, slice(mine.index(p), mine.index(p) + mine.count(p))) for p in dict.fromkeys(mine))
        return cls(
            np.array([float(terms[term]) for term in ordered]),
            others,
            factors,
            None if (exponents == 1).all() else exponents,
            slices,
        )

    def terms_at(self, counts: Mapping[int, int], full: Mapping[int, int]) -> NDArray[np.float64]:
        """Value of each term, without the factors of the group itself."""
        if not self.others:
            return self.coefficients
        kept = np.array([*(counts.get(g, full[g]) for g in self.others), 1], np.float64)
        factors = kept[self.factors]
        if self.exponents is not None:
            factors = factors**self.exponents
        return np.asarray(self.coefficients * factors.prod(1))


class Polynomial:
    """A quantity as a function of how many channels each group keeps.

    Args:
        terms: coefficient of each term.
        full: number of channels of every group.
    """

    def __init__(self, terms: Terms, full: Mapping[int, int]) -> None:
        self.terms = {term: coefficient for term, coefficient in terms.items() if coefficient}
        self.full = dict(full)
        touching: dict[int, Terms] = {group: {} for group in self.full}
        for term, coefficient in self.terms.items():
            for group, _ in term:
                touching[group][term] = coefficient
        self._parts = {group: _Part.of(group, mine) for group, mine in touching.items() if mine}

    @property
    def groups(self) -> frozenset[int]:
        """That the quantity depends on."""
        return frozenset(self._parts)

    @cached_property
    def _whole(self) -> _Part:
        return _Part.of(None, self.terms)

    def value(self, counts: Mapping[int, int]) -> float:
        """The quantity when each group keeps ``counts`` channels; a group that is missing keeps all."""
        return float(self._whole.terms_at(counts, self.full).sum())

    def saving(self, counts: Mapping[int, int], group: int, fewer: ArrayLike) -> NDArray[np.float64]:
        """How much smaller the quantity gets when ``group`` alone keeps ``fewer`` channels instead.

        Args:
            counts: where one stands; a group that is missing keeps all of its channels.
            group: the one that changes.
            fewer: one or several counts to try; more channels than now give negative savings.

        Returns:
            The saving for each count in ``fewer``.
        """
        then = np.asarray(fewer, np.float64)
        part = self._parts.get(group)
        if part is None:
            return np.zeros(then.shape)
        terms_T, now = part.terms_at(counts, self.full), float(counts.get(group, self.full[group]))
        saved = np.zeros(then.shape)
        for p, rows in part.slices:
            saved = saved + terms_T[rows].sum() * (now - then if p == 1 else now**p - then**p)
        return saved

    def coupled(self, group: int) -> frozenset[int]:
        """Groups whose savings change when the count of ``group`` does, itself included."""
        part = self._parts.get(group)
        return frozenset() if part is None else frozenset((group, *part.others))
