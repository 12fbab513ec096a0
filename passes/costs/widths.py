"""Which kept counts make the widths of all layers multiples of a number.

What a kernel works on is how many elements of a weight's axis lie in a row: all of a plain layer's outputs,
those of one group of a grouped convolution, those of one head. Channels that hold whole runs of elements
(heads) may go one by one where their runs are long enough; channels that alternate are counted themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from obs_onnx.passes.channels.coupling import Coupling, Group
from obs_onnx.passes.costs.polynomials import Polynomial, Terms
from obs_onnx.passes.costs.sizes import Sizes
from obs_onnx.passes.layers.find_layers import find_layers

__all__ = ["Sum", "Widths", "widths_of"]


@dataclass(frozen=True)
class Sum:
    """The width of an axis in which several things stand in a row.

    Attributes:
        size: of the kept counts.
        groups: that it depends on.
    """

    size: Polynomial
    groups: tuple[int, ...]

    def holds(self, counts: Mapping[int, int], multiple: int) -> bool:
        """Whether it is a multiple of a number, or as wide as it was."""
        size = round(self.size.value(counts))
        return size % multiple == 0 or size == round(self.size.value({}))


@dataclass(frozen=True)
class Widths:
    """What makes widths multiples of a number.

    Attributes:
        multiple: the number.
        steps: by group; its kept count is a multiple of it, or all of its channels.
        sums: widths that have to be multiples as well, or as they were. Left out are those that no choice
            makes one: what cannot be pruned is in the way, and they are none now.
    """

    multiple: int
    steps: Mapping[int, int]
    sums: tuple[Sum, ...]


def widths_of(coupling: Coupling, multiple: int) -> Widths:
    """What makes the widths of all layers of a model multiples of a number.

    Args:
        coupling: of the model.
        multiple: at least 1.
    """
    names = {layer.name for layer in find_layers(coupling.model)[0]}
    steps = {group.id: _step(coupling, group, names, multiple) for group in coupling.groups}
    sizes, seen, sums = Sizes(coupling), set[frozenset[tuple[object, float]]](), []
    for name in sorted(names):
        for labels in coupling.axes(coupling.named(name)) or ():
            terms = sizes.axis(labels)
            key = frozenset(terms.items())
            if len(terms) > 1 and key not in seen and _possible(terms, steps, sizes.full, multiple):
                sums.append(Sum(Polynomial(terms, sizes.full), _groups(terms)))
            seen.add(key)
    return Widths(multiple, steps, tuple(sums))


def _groups(terms: Terms) -> tuple[int, ...]:
    return tuple(sorted({group for term in terms for group, _ in term}))


def _step(coupling: Coupling, group: Group, layers: set[str], multiple: int) -> int:
    """The least count all multiples of which give runs of channels that are multiples of a number."""
    steps = [
        multiple // math.gcd(_run(coupling, group, site.initializer, site.axis), multiple)
        for site in group.sites
        if site.initializer in layers
    ]
    return math.lcm(*steps) if steps else multiple


def _run(coupling: Coupling, group: Group, name: str, axis: int) -> int:
    """Elements of one channel that lie in a row, the greatest number that divides all such runs."""
    incidence = coupling.incidence(group, name, axis).tocoo()
    channel: NDArray[np.int64] = np.full(incidence.shape[1], -1)
    channel[incidence.col] = incidence.row
    starts = np.flatnonzero(np.diff(channel, prepend=-2))
    lengths = np.diff(np.append(starts, len(channel)))
    return math.gcd(*lengths[channel[starts] >= 0].tolist())


def _possible(terms: Terms, steps: Mapping[int, int], full: Mapping[int, int], multiple: int) -> bool:
    """Whether the sum is a multiple, or is one where all groups that can keep multiples of their steps do."""
    whole = {term: round(c * math.prod(full[g] ** p for g, p in term)) for term, c in terms.items()}
    stuck = [size for term, size in whole.items() if all(steps[g] >= full[g] for g, _ in term)]
    return bool(sum(whole.values()) % multiple == 0 or sum(stuck) % multiple == 0)
