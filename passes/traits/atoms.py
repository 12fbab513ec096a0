"""Which elements live or die together: unification over sets of atoms.

An axis of ``n`` elements is an array ``labels_NK`` of atoms: element ``i`` dies as soon as one of the atoms
in row ``i`` dies. Atom 0 is padding; an element without atoms never dies. A convolution's outputs are ``n``
fresh atoms; a Reshape of ``h`` heads and ``w`` widths into one axis makes rows ``{head, width}``; Concat,
Slice and Split concatenate and index rows. Saying that two axes are the same axis (:meth:`Atoms.tie`) unifies
their rows: an atom becomes another atom, or a set of atoms, or nothing. What cannot be unified never dies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["Atoms", "Labels", "fixed", "is_joined", "is_repeated", "joined", "product"]

Labels = NDArray[np.int32]

_MOST = 1 << 25  # atoms of a model, and elements of an axis that is merged from others


def fixed(n: int) -> Labels:
    """Labels of an axis of ``n`` elements that never die."""
    return np.zeros((n, 0), np.int32)


def product(axes: Sequence[Labels]) -> Labels:
    """Labels of several axes merged into one, the first axis outermost."""
    sizes = [len(labels) for labels in axes]
    if not any(labels.shape[1] for labels in axes):
        return fixed(math.prod(sizes))
    if math.prod(sizes) > _MOST:
        raise ValueError(f"its axes of sizes {sizes} are too large to be told apart when they are merged")
    parts = []
    for i, labels in enumerate(axes):
        if labels.shape[1]:
            inner, outer = math.prod(sizes[i + 1 :]), math.prod(sizes[:i])
            parts.append(np.tile(np.repeat(labels, inner, axis=0), (outer, 1)))
    return np.concatenate(parts, axis=1)


def joined(pieces: list[Labels]) -> Labels:
    """Labels of axes in a row."""
    width = max(piece.shape[1] for piece in pieces)
    return np.concatenate([np.pad(piece, ((0, 0), (width - piece.shape[1], 0))) for piece in pieces])


def is_repeated(labels: Labels) -> bool:
    """Whether an axis of varying size repeats a constant number of rows: what stays is a constant share."""
    counts = np.unique(labels, axis=0, return_counts=True)[1]
    return not labels.size or (bool((labels != 0).any(1).all()) and bool((counts == counts[0]).all()))


def is_joined(labels: Labels) -> bool:
    """Whether an axis of varying size is elements that stay, and some that may go, each of them once."""
    free = labels[(labels != 0).any(1)]
    return len(free) < len(labels) - 1 and len(np.unique(free, axis=0)) == len(free)


def _minus(a: Labels, b: Labels) -> Labels:
    """Rows of ``a`` with the atoms that the same row of ``b`` holds set to 0."""
    return np.where((a[:, :, None] == b[:, None, :]).any(2), 0, a)


def _compress(labels: Labels) -> Labels:
    """Sorted rows without repeated atoms, as narrow as possible, padding first."""
    if labels.shape[1] > 1:
        labels = np.sort(labels, axis=1)
        labels[:, 1:][labels[:, 1:] == labels[:, :-1]] = 0
        labels.sort(axis=1)
    width = int((labels != 0).sum(1).max(initial=0))
    return labels[:, labels.shape[1] - width :]


class Atoms:
    """All atoms of a model and what they have become.

    Attributes:
        family: number of the call of :meth:`fresh` that made each atom; atoms of one family are alike.
    """

    def __init__(self) -> None:
        self._becomes = np.zeros(
            (1024, 1), np.int32
        )  # row a: the atoms that a stands for; a itself while it is a root
        self.family = np.zeros(1024, np.int32)
        self.count = 1
        self._families = 0

    def fresh(self, n: int) -> Labels:
        """``n`` elements that may die independently; a single one never dies, nor do too many to be told."""
        if n <= 1 or self.count + n > _MOST:
            return fixed(n)
        first, self.count = self.count, self.count + n
        while self.count > len(self.family):
            self._becomes = np.concatenate([self._becomes, np.zeros_like(self._becomes)])
            self.family = np.concatenate([self.family, np.zeros_like(self.family)])
        made = np.arange(first, self.count, dtype=np.int32)
        self._becomes[made, 0] = made
        self._families += 1
        self.family[made] = self._families
        return made[:, None]

    def resolve(self, labels: Labels) -> Labels:
        """``labels`` in terms of the atoms that are left."""
        while labels.size:
            now = self._becomes[labels]
            if np.array_equal(now[:, :, 0], labels) and not now[:, :, 1:].any():
                return _compress(labels)
            labels = _compress(now.reshape(len(labels), -1))
        return labels

    def freeze(self, labels: Labels) -> int:
        """Let no atom of ``labels`` ever die; returns how many atoms could have."""
        atoms = np.unique(self.resolve(labels))
        atoms = atoms[atoms != 0]
        self._becomes[atoms] = 0
        return len(atoms)

    def tie(self, a: Labels, b: Labels) -> None:
        """Element ``i`` of ``a`` is element ``i`` of ``b``."""
        if len(a) != len(b):
            raise ValueError(f"axes of {len(a)} and {len(b)} elements cannot be tied")
        while True:
            a, b = self.resolve(a), self.resolve(b)
            if a.shape == b.shape and np.array_equal(a, b):
                return
            more_a, more_b = _compress(_minus(a, b)), _compress(_minus(b, a))
            in_a, in_b = (more_a != 0).sum(1), (more_b != 0).sum(1)
            if (lone := (in_a == 0) | (in_b == 0)).any() and (in_a + in_b)[lone].any():
                self.freeze(more_a[lone])
                self.freeze(more_b[lone])
            elif (pairs := (in_a == 1) & (in_b == 1)).any():
                self._merge(more_a[pairs, -1], more_b[pairs, -1])
            elif (single := in_a == 1).any():
                self._substitute(more_a[single, -1], more_b[single])
            elif (single := in_b == 1).any():
                self._substitute(more_b[single, -1], more_a[single])
            elif len(rows := np.flatnonzero(in_a)):
                self._match(more_a[rows], more_b[rows])
            else:
                return

    def split(self, labels: Labels, sizes: Sequence[int]) -> list[Labels]:
        """Labels of the axes that one axis is cut into by a Reshape, the first one outermost."""
        parts = []
        for i, size in enumerate(sizes[:-1]):
            outer, labels = self._split(labels, size, math.prod(sizes[i + 1 :]))
            parts.append(outer)
        return [*parts, labels]

    def _split(self, labels: Labels, outer: int, inner: int) -> tuple[Labels, Labels]:
        if outer == 1:
            return fixed(1), labels
        if inner == 1:
            return labels, fixed(1)
        labels = self.resolve(labels)
        if not labels.shape[1]:
            return fixed(outer), fixed(inner)
        grid = labels.reshape(outer, inner, -1)
        per_outer, per_inner = _common(grid, 1), _common(grid, 0)
        known = _compress(product([per_outer, per_inner]))
        if _minus(labels, known).any():
            per_outer = np.concatenate([per_outer, self.fresh(outer)], axis=1)
            per_inner = np.concatenate([per_inner, self.fresh(inner)], axis=1)
            self.tie(labels, product([per_outer, per_inner]))
        return self.resolve(per_outer), self.resolve(per_inner)

    def _merge(self, a: NDArray[np.int32], b: NDArray[np.int32]) -> None:
        atoms, ends = np.unique(np.concatenate([a, b]), return_inverse=True)
        graph = coo_array((np.ones(len(a), bool), ends.reshape(2, -1)), shape=(len(atoms), len(atoms)))
        _, component = connected_components(graph, directed=False)
        _, first = np.unique(component, return_index=True)  # atoms are sorted: the oldest stays
        self._becomes[atoms] = 0
        self._becomes[atoms, 0] = atoms[first][component]

    def _substitute(self, atoms: NDArray[np.int32], sets: Labels) -> None:
        """Each atom becomes a set of others; an atom that stands in such a set waits for the next round."""
        unique, first = np.unique(atoms, return_index=True)
        sets = sets[first]
        sound = ~np.isin(sets, unique).any(1)
        if not sound.any():
            self.freeze(np.concatenate([unique[:, None], sets], axis=1))
            return
        unique, sets = unique[sound], sets[sound]
        if (wider := sets.shape[1] - self._becomes.shape[1]) > 0:
            self._becomes = np.pad(self._becomes, ((0, 0), (0, wider)))
        self._becomes[unique] = 0
        self._becomes[unique, : sets.shape[1]] = sets

    def _match(self, a: Labels, b: Labels) -> None:
        """Merge atoms of ``a`` and ``b`` that stand in the same rows; without any, nothing here may die."""
        rows = np.random.default_rng(0).integers(1, 2**62, len(a))
        marks_a, marks_b = _marks(a, rows), _marks(b, rows)
        found = [(atom, marks_b[mark]) for mark, atom in marks_a.items() if mark in marks_b]
        if found:
            pairs = np.array(found, np.int32)
            self._merge(pairs[:, 0], pairs[:, 1])
        else:
            self.freeze(np.concatenate([a, b], axis=1))


def _marks(labels: Labels, rows: NDArray[np.int64]) -> dict[int, int]:
    """Atom by a number that stands for the set of rows it is in."""
    atoms, where = np.unique(labels, return_inverse=True)
    sums = np.zeros(len(atoms), np.int64)
    np.add.at(sums, where.reshape(labels.shape), rows[:, None])
    return {int(mark): int(atom) for mark, atom in zip(sums, atoms, strict=True) if atom}


def _common(grid: NDArray[np.int32], axis: int) -> Labels:
    """Atoms that stand in every row along ``axis`` (0 or 1) of a grid (outer, inner, atoms)."""
    first = grid[0] if axis == 0 else grid[:, 0]
    other = first[:, None, None, :] if axis == 1 else first[None, :, None, :]
    everywhere = (grid[:, :, :, None] == other).any(2).all(axis)
    return _compress(np.where(everywhere, first, 0))
