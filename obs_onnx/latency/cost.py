"""Latency as a function of how many channels each group keeps; see
:class:`obs_onnx.passes.costs.model_costs.Cost`."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls

from obs_onnx.passes.costs.model_costs import Cost

__all__ = ["ITERATIONS", "BlockLatency", "LatencyCost", "Traffic", "block_latency"]

_TERMS = 40
_FLOOR = 0.05  # of the longest time: below it, errors are no longer relative
ITERATIONS = 30  # of non-negative least squares, for each unknown


@dataclass(frozen=True, eq=False)
class _Grid:
    """Times at all pairs of levels of one or two groups; linear between them, constant outside.

    Allocation asks for thousands of short rows: ``scipy.interpolate.RegularGridInterpolator`` gives the same
    numbers, but takes six times as long for a row and has to be told not to extrapolate.
    """

    axes: tuple[NDArray[np.float64], ...]
    values: NDArray[np.float64]

    def along(self, axis: int, counts: NDArray[np.float64], others: tuple[float, ...]) -> NDArray[np.float64]:
        values = self.values
        if len(self.axes) == 2:
            other = self.axes[1 - axis]
            at = float(np.interp(others[1 - axis], other, np.arange(len(other))))
            low = min(int(at), max(len(other) - 2, 0))
            high = min(low + 1, len(other) - 1)
            rows = np.moveaxis(values, 1 - axis, 0)
            values = rows[low] + (at - low) * (rows[high] - rows[low])
        return np.asarray(np.interp(counts, self.axes[axis], values))


@dataclass(frozen=True, eq=False)
class _Sum:
    """Non-negative combination of products of kept counts, for blocks in which many groups meet."""

    terms: tuple[tuple[int, ...], ...]
    factors: NDArray[np.float64]

    def along(self, axis: int, counts: NDArray[np.float64], others: tuple[float, ...]) -> NDArray[np.float64]:
        total = np.zeros(len(counts))
        for term, factor in zip(self.terms, self.factors.tolist(), strict=True):
            rest = factor * float(np.prod([others[place] for place in term if place != axis]))
            total += rest * (counts if axis in term else 1.0)
        return total


@dataclass(frozen=True, eq=False)
class BlockLatency:
    """Milliseconds of one block.

    Attributes:
        name, kind: see :class:`obs_onnx.passes.costs.blocks.Block`.
        groups: whose counts change it.
        dense: counts of these groups in the dense model.
    """

    name: str
    kind: str
    groups: tuple[int, ...]
    dense: tuple[int, ...]
    _curve: _Grid | _Sum | float

    def along(self, group: int, fewer: NDArray[np.float64], counts: Mapping[int, int]) -> NDArray[np.float64]:
        """Milliseconds when ``group`` keeps each of ``fewer`` channels, the other groups ``counts``."""
        if isinstance(self._curve, float):
            return np.full(len(fewer), self._curve)
        others = tuple(float(counts.get(g, n)) for g, n in zip(self.groups, self.dense, strict=True))
        return self._curve.along(self.groups.index(group), fewer, others)

    def at(self, counts: Mapping[int, int]) -> float:
        """Milliseconds; a group that is missing keeps all."""
        if isinstance(self._curve, float):
            return self._curve
        group, n = self.groups[0], self.dense[0]
        return float(self.along(group, np.array([counts.get(group, n)], np.float64), counts)[0])


def block_latency(
    name: str,
    kind: str,
    groups: tuple[int, ...],
    dense: tuple[int, ...],
    counts: NDArray[np.int64],
    milliseconds: NDArray[np.float64],
) -> BlockLatency:
    """From measurements: interpolated between levels of one or two groups, fitted for more.

    Args:
        name, kind, groups, dense: see :class:`BlockLatency`.
        counts: (points, groups) kept.
        milliseconds: (points,).
    """
    if not groups:
        return BlockLatency(name, kind, groups, dense, float(np.median(milliseconds)))
    if len(groups) <= 2:
        axes = tuple(np.unique(counts[:, axis]) for axis in range(len(groups)))
        values = np.full([len(axis) for axis in axes], np.nan)
        places = [np.searchsorted(axis, counts[:, i]) for i, axis in enumerate(axes)]
        values[tuple(places)] = milliseconds
        if not np.isnan(values).any():
            floats = tuple(axis.astype(np.float64) for axis in axes)
            return BlockLatency(name, kind, groups, dense, _Grid(floats, values))
    return BlockLatency(name, kind, groups, dense, _fitted(counts, milliseconds))


def _fitted(counts: NDArray[np.int64], milliseconds: NDArray[np.float64]) -> _Sum:
    places = range(counts.shape[1])
    terms: list[tuple[int, ...]] = [()]
    for degree in (1, 2, 3):
        more = list(itertools.combinations(places, degree))
        if degree > 1 and len(terms) + len(more) > _TERMS:
            break
        terms += more
    scale = counts.max(0).astype(np.float64)
    columns = np.stack([(counts[:, list(term)] / scale[list(term)]).prod(1) for term in terms], axis=1)
    weight = 1 / np.maximum(milliseconds, max(_FLOOR * float(milliseconds.max()), 1e-9))
    factors, _ = nnls(columns * weight[:, None], milliseconds * weight, maxiter=ITERATIONS * columns.shape[1])
    factors = factors / np.array([scale[list(term)].prod() for term in terms])
    held = [i for i in range(len(terms)) if factors[i] > 0]
    return _Sum(tuple(terms[i] for i in held), factors[held])


@dataclass(frozen=True, eq=False)
class Traffic:
    """Milliseconds that a run waits for weights which have left the caches since the run before.

    Convex and rising in the bytes of all initializers: ``sum_j rates_j max(bytes - thresholds_j, 0)``.
    """

    weights: Cost
    thresholds: NDArray[np.float64]
    rates: NDArray[np.float64]

    def of(self, stored: NDArray[np.float64]) -> NDArray[np.float64]:
        """For so many bytes."""
        return np.asarray(np.maximum(stored[:, None] - self.thresholds, 0) @ self.rates)


class LatencyCost:
    """Milliseconds of a model: a constant, its blocks times factors of their kinds, and waiting for weights.

    Args:
        blocks: of the model.
        factors: of each kind of block.
        constant: milliseconds that every run takes.
        traffic: what depends on the size of the whole model.
        dead: for groups that can go altogether, names of the nodes that are gone then.
    """

    def __init__(
        self,
        blocks: Iterable[BlockLatency],
        factors: Mapping[str, float],
        constant: float,
        traffic: Traffic,
        dead: Mapping[int, Collection[str]] | None = None,
    ) -> None:
        self.blocks, self.factors, self.constant = tuple(blocks), dict(factors), constant
        self.traffic, self.dead = traffic, dead or {}
        self._of: dict[int, list[BlockLatency]] = {}
        self._ends: dict[str, frozenset[int]] = {}
        for block in self.blocks:
            self._ends[block.name] = frozenset(g for g, names in self.dead.items() if block.name in names)
            for group in {*block.groups, *self._ends[block.name]}:
                self._of.setdefault(group, []).append(block)

    def leaving_out(self, dead: Mapping[int, Collection[str]]) -> LatencyCost:
        """The same with groups that can go altogether: node names that are gone then, by group."""
        return LatencyCost(self.blocks, self.factors, self.constant, self.traffic, dead)

    def value(self, counts: Mapping[int, int]) -> float:
        """Milliseconds of one run."""
        stored = np.array([self.traffic.weights.value(counts)])
        own = sum(
            self.factors[block.kind] * block.at(counts)
            for block in self.blocks
            if not self._is_dead(block, counts)
        )
        return self.constant + own + float(self.traffic.of(stored)[0])

    def saving(self, counts: Mapping[int, int], group: int, fewer: ArrayLike) -> NDArray[np.float64]:
        """Milliseconds less when ``group`` alone keeps ``fewer`` channels."""
        then = np.asarray(fewer, np.float64)
        asked = np.append(then.reshape(-1), 0.0)
        weights = self.traffic.weights
        stored = weights.value(counts) - np.append(weights.saving(counts, group, then.reshape(-1)), 0.0)
        waits = self.traffic.of(stored)
        saved: NDArray[np.float64] = waits[-1] - waits[:-1]
        for block in self._of.get(group, ()):
            if self._is_dead(block, {g: n for g, n in counts.items() if g != group}):
                continue
            if group in block.groups:
                asked[-1] = counts.get(group, block.dense[block.groups.index(group)])
                times = block.along(group, asked, counts)
            else:
                asked[-1] = counts.get(group, 1)
                times = np.full(len(asked), block.at(counts))
            if group in self._ends[block.name]:
                times = np.where(asked == 0, 0.0, times)
            saved += self.factors[block.kind] * (times[-1] - times[:-1])
        return saved.reshape(then.shape)

    def _is_dead(self, block: BlockLatency, counts: Mapping[int, int]) -> bool:
        return any(counts.get(group) == 0 for group in self._ends[block.name])

    def coupled(self, group: int) -> frozenset[int]:
        """Groups that meet ``group`` in a block, itself included; all others through the caches, slightly."""
        return frozenset(
            other for block in self._of.get(group, ()) for other in (*block.groups, *self._ends[block.name])
        )
