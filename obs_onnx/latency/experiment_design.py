"""At which widths to measure: few plans for the whole model that show each block at all pairs of levels.

The plans are the rows of an orthogonal array of strength two: for a prime number L of levels the L^2 rows
``(a, b)`` and the columns ``a + h b mod L`` (h < L) and ``b``, in any two of which all pairs of levels stand
exactly once (Bush 1952). Groups that meet in a block get different columns, as neighbours in a graph get
different colours; then L^2 models hold every block at every pair of levels of its two groups.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["columns_for", "orthogonal_array", "plans"]


def orthogonal_array(levels: int) -> NDArray[np.int64]:
    """Rows of levels, (L^2, L + 1), for a prime L.

    Raises:
        ValueError: L is no prime.
    """
    if levels < 2 or any(levels % k == 0 for k in range(2, int(levels**0.5) + 1)):
        raise ValueError(f"{levels} is no prime")
    a, b = np.divmod(np.arange(levels**2), levels)
    return np.stack([*((a + h * b) % levels for h in range(levels)), b], axis=1)


def columns_for(groups: Sequence[int], meeting: Iterable[Iterable[int]], columns: int) -> dict[int, int]:
    """A column for each group, different ones for groups that meet where there are enough of them.

    Greedy colouring, the group that meets most others first.
    """
    others: dict[int, set[int]] = {group: set() for group in groups}
    for together in meeting:
        for one, other in itertools.permutations(set(together) & others.keys(), 2):
            others[one].add(other)
    found: dict[int, int] = {}
    for group in sorted(groups, key=lambda g: (-len(others[g]), g)):
        taken = [found[other] for other in others[group] if other in found]
        found[group] = min(range(columns), key=lambda column: (taken.count(column), column))
    return found


def plans(
    counts: Mapping[int, NDArray[np.int64]], meeting: Iterable[Iterable[int]], levels: int
) -> list[dict[int, int]]:
    """Kept counts of all groups, one dict for each model to measure, all different; the dense one comes last.

    Args:
        counts: that each group may keep, rising; ``levels`` of them are used, evenly spaced.
        meeting: groups of each block.
        levels: a prime.
    """
    array = orthogonal_array(levels)
    column = columns_for(list(counts), meeting, array.shape[1])
    chosen = {
        group: own[np.linspace(0, len(own) - 1, levels).round().astype(int)] for group, own in counts.items()
    }
    rows = [{group: int(chosen[group][row[column[group]]]) for group in counts} for row in array]
    dense = {group: int(own[-1]) for group, own in counts.items()}
    once = {tuple(row.values()): row for row in rows if row != dense}
    return [*once.values(), dense]
