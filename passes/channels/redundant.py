"""Channels that change nothing: what they give is always the same, or follows from what others give.

A channel has no effect when it is multiplied by zeros wherever channels are added up. Three kinds can be
brought to that without changing what the model gives for any input:

* *dead* ones are multiplied by zeros already, or are zero whatever the input is;
* *constant* ones are the same number whatever the input is: what they add goes into a bias;
* *dependent* ones are a copy, or a fixed linear combination, of others: their weights are added to theirs.

What does not depend on the input is followed from node to node; copies have the same parameters everywhere;
linear combinations of parameters give the same combinations of channels as long as all that happens to these
is linear and the same for each. Constants are read from one run, and count where they are equal everywhere
(zeros around an image make a border).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr

from obs_onnx.passes.channels.coupling import Coupling, Group, Site
from obs_onnx.passes.channels.origins import Origins, Reading
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.ops.quantized.numbers import Numbers

__all__ = ["Redundant", "find_redundant"]

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Mask = NDArray[np.bool_]
Values = Callable[[Sequence[str], Mapping[str, Float]], Mapping[str, NDArray[np.generic]]]

_PASSES = 8  # what is gone makes more redundant, before it and behind it
_DEPENDENT = 1e-6  # share of a row of parameters that others do not explain, of rounding
_MOST = 2048  # channels of a group that are looked through for linear combinations


@dataclass(frozen=True)
class Redundant:
    """Channels without which a model gives the same.

    Attributes:
        channels: those that can go, by group, in the order in which they were found; one of each group stays.
        tensors: initializers in which what they gave has moved to others: they have no effect any more.
        kinds: how many there are of each kind, by name.
    """

    channels: Mapping[int, Int]
    tensors: Mapping[str, Float]
    kinds: Mapping[str, int]


def find_redundant(
    coupling: Coupling,
    layers: Sequence[Layer],
    values: Values,
) -> Redundant:
    """Look for channels of a model that change nothing.

    Args:
        coupling: of the model.
        layers: of the model; constants go into their biases.
        values: gives activations of one run by their names, with some initializers changed.
    """
    search = _Search(coupling, layers, values)
    for _ in range(_PASSES):
        if not sum(search.look_at(group) for group in coupling.groups):
            break
    return Redundant(
        {group: np.array(list(gone), np.int64) for group, gone in search.gone.items() if gone},
        search.changed,
        search.kinds,
    )


class _Search:
    """The weights by now, and the channels that were found."""

    def __init__(
        self,
        coupling: Coupling,
        layers: Sequence[Layer],
        values: Values,
    ) -> None:
        self.coupling, self.values = coupling, values
        self.layers = {layer.name: layer for layer in layers}
        self.changed: dict[str, Float] = {}
        self.gone: dict[int, dict[int, None]] = {group.id: {} for group in coupling.groups}
        self.spent: set[int] = set()
        self.kinds: dict[str, int] = {}
        self.origins, self.numbers = Origins(coupling), Numbers(coupling.graph)
        self._elements: dict[tuple[int, Site], Int] = {}

    def array(self, name: str) -> NDArray[np.generic]:
        """An initializer as it is by now."""
        if name in self.changed:
            return self.changed[name]
        found = self.coupling.graph.concrete.constant(self.coupling.named(name))
        assert found is not None
        return found

    def elements(self, group: Group, site: Site) -> Int:
        """Elements of a site that go with each channel: (channels, elements)."""
        if (group.id, site) not in self._elements:
            incidence = self.coupling.incidence(group, *site)
            self._elements[group.id, site] = (
                incidence.sorted_indices().indices.reshape(group.n, -1).astype(np.int64)
            )
        return self._elements[group.id, site]

    def slices(self, group: Group, site: Site) -> NDArray[np.generic]:
        """What an initializer holds for each channel: (channels, elements)."""
        array = np.moveaxis(self.array(site.initializer), site.axis, 0)
        return array[self.elements(group, site)].reshape(group.n, -1)

    def _empty(self, group: Group, site: Site) -> Mask:
        """Channels for which an initializer holds nothing but zeros."""
        zeros = self.numbers.zeros(site.initializer, self.array(site.initializer))
        rest = tuple(axis for axis in range(zeros.ndim) if axis != site.axis)
        return np.asarray(np.asarray(zeros.all(axis=rest))[self.elements(group, site)].all(1))

    def _is_float(self, name: str) -> bool:
        """Whether an initializer can take numbers over from others; sums of integers may be none."""
        tensor = self.coupling.named(name).const_value
        return name in self.changed or (tensor is not None and node_facts.is_float(tensor))

    def look_at(self, group: Group) -> bool:
        """Look for channels of a group; whether there are new ones."""
        readings = self.origins.readings(group)
        if not readings or not self.origins.even(group):
            return False
        left = np.ones(group.n, bool)
        left[list(self.gone[group.id])] = False
        found = [self._dead(group, readings, left), self._dependent(group, readings, left)]
        return any(found)

    def _take(self, group: Group, left: Mask, channel: int, kind: str) -> bool:
        """Note a channel, if that is new; the last one of its group stays, without effect."""
        if left.sum() < 2:
            if group.id in self.spent:
                return False
            self.spent.add(group.id)
        else:
            left[channel] = False
            self.gone[group.id][channel] = None
            self.kinds[kind] = self.kinds.get(kind, 0) + 1
        for site in self.origins.produced(group):  # what nobody needs depends on nothing
            self._clear(group, site, channel)
        return True

    def _clear(self, group: Group, site: Site, channel: int) -> None:
        """Zeros for what a weight of numbers holds for a channel."""
        if not self._is_float(site.initializer):
            return
        held = self._own(site.initializer)
        np.moveaxis(held, site.axis, 0)[self.elements(group, site)[channel]] = 0

    def _own(self, name: str) -> Float:
        """An initializer, to be changed."""
        if name not in self.changed:
            self.changed[name] = self.array(name).astype(np.float64)
        return self.changed[name]

    def _dead(self, group: Group, readings: Sequence[Reading], left: Mask) -> bool:
        """Channels that count nothing, or the same whatever the input is."""
        added, found = self._added(group, readings, left), False
        for channel in np.flatnonzero(left & ~np.isnan(added).any(0)).tolist():
            kind = "constant" if added[:, channel].any() else "dead"
            if not self._take(group, left, channel, kind):
                break
            found = True
            for reading, number in zip(readings, added[:, channel].tolist(), strict=True):
                if reading.site is not None:
                    self._fold(group, reading, channel, number)
        return found

    def _fold(self, group: Group, reading: Reading, channel: int, number: float) -> None:
        """Move what a constant channel adds into the bias of the layer that reads it."""
        assert reading.site is not None
        if number:
            layer = self.layers[reading.site.initializer]
            bias, use = layer.uses[0].bias, layer.uses[0]
            assert bias is not None
            w_GOI = layer.layout.to_matrix(self.array(layer.name))
            lone = np.zeros(self.array(layer.name).shape)
            place = (slice(None),) * reading.site.axis + (self.elements(group, reading.site)[channel],)
            lone[place] = 1 / layer.layout.scale
            added_GO = (w_GOI * layer.layout.to_matrix(lone)).sum(2) * number / use.bias_scale
            held = self._own(bias)
            held += added_GO.reshape(held.shape)
        self._clear(group, reading.site, channel)

    def _added(self, group: Group, readings: Sequence[Reading], left: Mask) -> Float:
        """What each channel is at each reading (readings, channels), if that is the same for any input.

        Zero where it is multiplied by zeros; not a number where it depends on the input, or where what it
        adds cannot be moved.
        """
        found = np.full((len(readings), group.n), np.nan)
        idle = {site.initializer: self._empty(group, site) for site in self.origins.produced(group)}
        zeros = {site.initializer: self._empty(group, site) for site in self.origins.own(group)}

        def is_zero(name: str) -> Mask:
            found = self.origins.number(group, name, self.values([name], self.changed)[name])
            return np.asarray(found == 0)

        fixed = self.origins.fixed(group, idle, zeros, is_zero)
        for added, reading in zip(found, readings, strict=True):
            if reading.site is not None:
                added[self._empty(group, reading.site)] = 0
            there = np.all([fixed.get(name, False) & left for name in reading.values], axis=0) & np.isnan(
                added
            )
            integers = reading.site is not None and not self._is_float(reading.site.initializer)
            if not reading.values or not there.any() or integers:
                continue
            arrays = self.values(reading.values, self.changed)
            numbers = [self.origins.number(group, name, array) for name, array in arrays.items()]
            there &= np.all([one == numbers[0] for one in numbers], axis=0)
            movable = reading.site is not None and self._movable(reading.site.initializer)
            there &= (numbers[0] == 0) | movable
            added[there] = numbers[0][there]
        return found

    def _movable(self, name: str) -> bool:
        """Whether a constant input of a layer adds the same everywhere, and its bias can hold that."""
        layer = self.layers.get(name)
        if layer is None or len(layer.uses) != 1:
            return False
        use = layer.uses[0]
        return use.bias is not None and use.bias_scale != 0 and use.geometry.uniform

    def _dependent(self, group: Group, readings: Sequence[Reading], left: Mask) -> bool:
        """Channels that are copies or linear combinations of others."""
        sites = [reading.site for reading in readings]
        if left.sum() < 2 or not all(site and self._is_float(site.initializer) for site in sites):
            return False
        if not self.origins.alike(group):
            return False
        parameters = [self.slices(group, site) for site in self.origins.own(group)]
        if any(array.dtype.kind not in "fiub" for array in parameters) or not parameters:
            return False
        shares = _copies(parameters, left)
        kind = "copied"
        if not shares and left.sum() <= _MOST and self.origins.additive(group):
            shares, kind = _combinations(np.concatenate(parameters, axis=1), left), "dependent"
        found = False
        for channel, others in shares.items():
            if not self._take(group, left, channel, kind):
                break
            found = True
            for reading in readings:
                assert reading.site is not None
                elements = self.elements(group, reading.site)
                held = np.moveaxis(self._own(reading.site.initializer), reading.site.axis, 0)
                for other, factor in others.items():
                    held[elements[other]] += factor * held[elements[channel]]
                held[elements[channel]] = 0
        return found


def _copies(parameters: Sequence[NDArray[np.generic]], left: Mask) -> dict[int, dict[int, float]]:
    """Channels that are left and have the same parameters as an earlier one."""
    first: dict[bytes, int] = {}
    found = {}
    for channel in np.flatnonzero(left).tolist():
        own = b"".join((array[channel] + array.dtype.type(0)).tobytes() for array in parameters)
        if (other := first.setdefault(own, channel)) != channel:
            found[channel] = {other: 1.0}
    return found


def _combinations(s_CP: NDArray[np.generic], left: Mask) -> dict[int, dict[int, float]]:
    """Channels that are left and whose parameters (C, P) are combinations of those of others."""
    there = np.flatnonzero(left)
    s_CP = s_CP[there].astype(np.float64)
    sizes = np.linalg.norm(s_CP, axis=1)
    if not sizes.all():
        return {}
    unit_CP = s_CP / sizes[:, None]
    if _is_definite(unit_CP @ unit_CP.T - _DEPENDENT * np.eye(len(there))):
        return {}
    r_PC, pivots = qr(unit_CP.T, mode="r", pivoting=True)
    rank = int((np.abs(np.diag(r_PC)) > _DEPENDENT).sum())
    if rank == len(there):
        return {}
    factors = np.linalg.solve(r_PC[:rank, :rank], r_PC[:rank, rank:])
    base, found = there[pivots[:rank]].tolist(), {}
    for place, column in zip(pivots[rank:].tolist(), factors.T, strict=True):
        scaled = column * sizes[place] / sizes[pivots[:rank]]
        found[int(there[place])] = dict(zip(base, scaled.tolist(), strict=True))
    return found


def _is_definite(a: Float) -> bool:
    try:
        np.linalg.cholesky(a)
    except np.linalg.LinAlgError:
        return False
    return True
