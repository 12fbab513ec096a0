"""Channels: elements of axes, anywhere in a graph, that can only be removed together.

Every operator's table ties the axes of its inputs and outputs (see :mod:`obs_onnx.passes.traits.relation`);
what is left of the atoms are the channels. Channels that stand in the same axes of the same values are alike
and form a group: convolution filters, heads, widths of heads, hidden units.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from obs_onnx.passes.channels.relate import relate
from obs_onnx.passes.graph.inputs import real_inputs
from obs_onnx.passes.graph.names import COPY_OF, chosen
from obs_onnx.passes.interface.caches import find_caches
from obs_onnx.passes.layers.layer import Frozen
from obs_onnx.passes.ops import key
from obs_onnx.passes.shapes.concrete import concretize
from obs_onnx.passes.traits.atoms import Atoms, Labels, is_joined, is_repeated
from obs_onnx.passes.traits.relation import Graph

__all__ = ["Coupling", "Frozen", "Group", "Keep", "Site", "couple"]

Keep = Mapping[int, NDArray[np.bool_]]


class Site(NamedTuple):
    """An axis of an initializer in which the channels of a group stand."""

    initializer: str
    axis: int


@dataclass(frozen=True)
class Group:
    """Channels that are alike, any of which but not all may be removed.

    Attributes:
        id: number of the group in the model; the same model always has the same numbers.
        name: of the first initializer and axis it stands in, for people.
        n: number of channels.
        sites: all initializers and axes it stands in.
    """

    id: int
    name: str
    n: int
    sites: tuple[Site, ...]


class Coupling:
    """All channels of a model.

    Attributes:
        model: the model, unchanged; values and nodes below are its own.
        protect: patterns of names whose axes stay as they are.
        caches: names of inputs that may lose elements.
        graph: labels of all axes, and what operators said about them.
        groups: prunable channels.
        frozen: nodes that keep something from being pruned.
    """

    def __init__(
        self,
        model: ir.Model,
        graph: Graph,
        protect: Sequence[str] = (),
        caches: Collection[str] = (),
    ) -> None:
        self.model, self.graph, self.protect = model, graph, tuple(protect)
        self.caches = frozenset(caches)
        self._named = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
        while True:
            self._resolve()
            self.groups = self._find_groups()
            if not (unfit := [*self._holed(), *self._untold(), *self._unnamed()]):
                break
            for node, labels, reason in unfit:
                graph.fix(node, [labels], reason)
        self.frozen = [
            Frozen(str(node.name), key(node), reason) for node, reason in dict.fromkeys(graph.frozen)
        ]

    def of(self, model: ir.Model) -> Coupling:
        """That of another ``model`` with the same protected names; for a clone the groups are the same."""
        return couple(model, self.protect, self.caches)

    def _resolve(self) -> None:
        """Final labels, equal ones held once."""
        same: dict[bytes, Labels] = {}
        atoms = self.graph.atoms
        self._resolved = {
            value: [
                same.setdefault(final.tobytes() + bytes(final.shape[1]), final) if final.size else final
                for final in (atoms.resolve(labels) for labels in axes)
            ]
            for value, axes in self.graph.labels.items()
        }
        self._group_of = np.full(atoms.count, -1)  # of each atom
        self._channel_of = np.full(atoms.count, -1)

    def _holed(self) -> list[tuple[ir.Node, Labels, str]]:
        """Nodes and rows of labels that are part of a product of groups but not all of it.

        Keeping one channel of each group would not keep an element there, and which channels have gone could
        not be told from the elements.
        """
        found, reason = [], "it takes a part of a product of channels, which could be left empty"
        held = {id(labels): (value, labels) for value, axes in self._resolved.items() for labels in axes}
        for value, labels in held.values():
            groups = self.groups_along(labels)
            several = (groups >= 0).sum(1) > 1 if labels.shape[1] > 1 else np.zeros(0, bool)
            if not several.any():
                continue
            rows, where = labels[several], np.unique(groups[several], axis=0, return_inverse=True)
            for k, members in enumerate(where[0]):
                mine = rows[where[1].reshape(-1) == k]
                free = np.where(self._group_of[mine] >= 0, mine, 0)
                whole = math.prod(self.groups[g].n for g in members if g >= 0)
                if len(np.unique(np.sort(free, axis=1), axis=0)) != whole:
                    node = value.producer() or next(use.node for use in value.uses())
                    found.append((node, free, reason))
        return found

    def _untold(self) -> list[tuple[ir.Node, Labels, str]]:
        """Nodes and labels of varying sizes that keep neither ratio nor difference to the dense ones."""
        reason = "it restates a varying size that no constant ratio or difference ties to the dense one"
        sizes = [(one, self.graph.atoms.resolve(one.labels)) for one in self.graph.restated]
        return [
            (one.node, labels, reason)
            for one, labels in sizes
            if labels.shape[1] and not (is_repeated(labels) or (one.alone and is_joined(labels)))
        ]

    def _unnamed(self) -> list[tuple[ir.Node, Labels, str]]:
        """Nodes and labels of groups in constants alone that serve several nodes, which keep different parts.

        What is kept could not be said in terms of the constants of the model as it came in.
        """
        reason = "its weight serves several nodes, which would keep different parts of it"
        named = {
            str(value.name)
            for copies in self.copies.values()
            for value in copies
            if all(_equal(self._resolved.get(value, ()), self._resolved.get(copy, ())) for copy in copies)
        }
        found = []
        for group in self.groups:
            if not any(site.initializer in named for site in group.sites):
                value = self.named(group.sites[0].initializer)
                labels = self._resolved[value][group.sites[0].axis]
                own = np.where(self._group_of[labels] == group.id, labels, 0)
                found.append((next(use.node for use in value.uses()), own, reason))
        return found

    @cached_property
    def copies(self) -> dict[str, list[ir.Value]]:
        """Initializers by the one they were copied from (see :class:`OwnConstants`), themselves included."""
        found: dict[str, list[ir.Value]] = {}
        for value in self.model.graph.initializers.values():
            found.setdefault(str(value.meta.get(COPY_OF, value.name)), []).append(value)
        return found

    def axes(self, value: ir.Value) -> list[Labels] | None:
        """Labels of the axes of ``value``, or None for one of unknown shape."""
        return self._resolved.get(value)

    def named(self, name: str) -> ir.Value:
        """The value of a name."""
        return self._named[name]

    def has(self, group: Group, labels: Labels) -> bool:
        """Whether an axis with these labels has elements that go with channels of ``group``."""
        return bool((self._group_of[self.graph.atoms.resolve(labels)] == group.id).any())

    def groups_along(self, labels: Labels) -> NDArray[np.int64]:
        """Ids of the groups that elements of an axis go with, rising, -1 in front; shape of ``labels``."""
        return np.sort(self._group_of[labels], axis=1)

    def groups_of(self, value: ir.Value) -> set[int]:
        """Groups with channels in any axis of ``value``; none where its shape is unknown."""
        axes = self._resolved.get(value, ())
        return {int(group) for labels in axes for group in np.unique(self._group_of[labels]) if group >= 0}

    def alive(self, keep: Keep) -> _Alive:
        """Which elements of any axis stay under ``keep``.

        Args:
            keep: for groups by id (others are kept), a bool for each channel, at least one of them True.

        Raises:
            ValueError: a mask has the wrong length or keeps nothing.
        """
        stays = np.ones(self.graph.atoms.count, bool)
        for group in self.groups:
            if group.id in keep:
                mask = np.asarray(keep[group.id], bool)
                if mask.shape != (group.n,) or not mask.any():
                    raise ValueError(
                        f"group {group.name} needs a mask of {group.n} with at least one channel kept"
                    )
                stays[self._group_of == group.id] = mask
        return _Alive(self.graph.atoms, stays)

    def shapes(self, keep: Keep, values: Iterable[ir.Value] | None = None) -> dict[ir.Value, tuple[int, ...]]:
        """Concrete shapes after removal, of ``values`` or of all, where they are known."""
        alive, known = self.alive(keep), {}
        counts: dict[int, int] = {}
        for value in self.graph.concrete.shapes if values is None else values:
            shape = self.graph.concrete.shapes.get(value)
            if shape is None:
                continue
            sizes = []
            for labels in self._resolved.get(value, ()):
                if id(labels) not in counts:
                    counts[id(labels)] = alive.count(labels)
                sizes.append(counts[id(labels)])
            known[value] = tuple(sizes) if value in self._resolved else shape
        return known

    def incidence(self, group: Group, value: ir.Value | str, axis: int) -> csr_array:
        """Which elements of an axis of any value go with each channel: bool, (channels, elements)."""
        labels = self._resolved[self.named(value) if isinstance(value, str) else value][axis]
        element, place = np.nonzero(self._group_of[labels] == group.id)
        channel = self._channel_of[labels[element, place]]
        shape = (group.n, len(labels))
        return csr_array(coo_array((np.ones(len(element), bool), (channel, element)), shape=shape))

    def keep_indices(self, keep: Keep) -> dict[str, dict[str, list[int]]]:
        """``{initializer: {axis: kept indices}}`` for every initializer that shrinks under ``keep``."""
        alive, found = self.alive(keep), {}
        for value in self._initializers:
            per_axis = {}
            for axis, labels in enumerate(self._resolved[value]):
                if not (stays := alive(labels)).all():
                    per_axis[str(axis)] = [int(i) for i in np.flatnonzero(stays)]
            if per_axis:
                found[str(value.name)] = per_axis
        return found

    def keep_from(self, kept: Mapping[str, Mapping[str, Sequence[int]]]) -> dict[int, NDArray[np.bool_]]:
        """Inverse of :meth:`keep_indices`; the names may be those of any values.

        A channel stays unless all of its elements are gone somewhere; axes that are fixed here do not count.

        Raises:
            ValueError: an index lies outside its axis.
        """
        stays = np.ones(self.graph.atoms.count, bool)
        for value, axes in self._resolved.items():
            for axis, indices in kept.get(str(value.name), {}).items():
                if int(axis) < len(axes) and (labels := axes[int(axis)]).shape[1]:
                    if any(not 0 <= i < len(labels) for i in indices):
                        raise ValueError(f"axis {axis} of {value.name} has {len(labels)} elements, not more")
                    here = np.zeros(len(stays), bool)
                    here[labels[list(indices)]] = True
                    stays[labels] &= here[labels]
        stays[0] = True
        masks = {group.id: stays[self._group_of == group.id] for group in self.groups}
        return {k: mask for k, mask in masks.items() if not mask.all()}

    def same_in(self, other: Coupling, keep: Keep) -> dict[int, NDArray[np.bool_]]:
        """``keep`` for the groups of ``other``, another form of this model with the same activations."""
        alive, kept = self.alive(keep), {}
        shapes = {value.name: shape for value, shape in other.graph.concrete.shapes.items()}
        for value, axes in self._resolved.items():
            if not self.graph.concrete.holds(value) and shapes.get(value.name) == tuple(map(len, axes)):
                kept[str(value.name)] = {
                    str(axis): np.flatnonzero(stays).tolist()
                    for axis, labels in enumerate(axes)
                    if not (stays := alive(labels)).all()
                }
        return other.keep_from(kept)

    @cached_property
    def _initializers(self) -> list[ir.Value]:
        return [value for value in self._resolved if self.graph.concrete.holds(value)]

    def _find_groups(self) -> list[Group]:
        """Atoms by family, by the axes they stand in and how often, in the order of their first atoms."""
        count = self.graph.atoms.count
        random = np.random.default_rng(0)
        marks, weighted = np.zeros(count, np.int64), np.zeros(count, bool)
        for value, axes in self._resolved.items():
            for labels in axes:
                if labels.shape[1]:
                    np.add.at(marks, labels.reshape(-1), random.integers(1, 2**62))
                    weighted[labels] |= self.graph.concrete.holds(value)
        weighted[0] = False
        atoms = np.flatnonzero(weighted)
        keys = np.stack([self.graph.atoms.family[atoms].astype(np.int64), marks[atoms]], axis=1)
        _, first, member = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        sizes: list[int] = []
        for where in np.argsort(first):
            alike = atoms[member.reshape(-1) == where]
            if len(alike) > 1:
                self._group_of[alike], self._channel_of[alike] = len(sizes), np.arange(len(alike))
                sizes.append(len(alike))
        sites: list[list[Site]] = [[] for _ in sizes]
        for value in self._initializers:
            for axis, labels in enumerate(self._resolved[value]):
                for k in np.unique(self._group_of[labels]):
                    if k >= 0:
                        sites[k].append(Site(str(value.name), axis))
        return [
            Group(k, f"{where[0].initializer}[{where[0].axis}]", n, tuple(where))
            for k, (n, where) in enumerate(zip(sizes, sites, strict=True))
        ]


def _equal(a: Sequence[Labels], b: Sequence[Labels]) -> bool:
    return len(a) == len(b) and all(map(np.array_equal, a, b))


class _Alive:
    """Callable: labels of an axis to a bool for each element."""

    def __init__(self, atoms: Atoms, stays: NDArray[np.bool_]) -> None:
        self._atoms, self._stays = atoms, stays

    def __call__(self, labels: Labels) -> NDArray[np.bool_]:
        return np.asarray(self._stays[self._atoms.resolve(labels)].all(1))

    def count(self, labels: Labels) -> int:
        """Elements that stay, of labels that are resolved already."""
        return int(self._stays[labels].all(1).sum()) if labels.shape[1] else len(labels)


def couple(model: ir.Model, protect: Sequence[str] = (), caches: Collection[str] = ()) -> Coupling:
    """Find the channels of a prepared ``model`` (see
    :func:`obs_onnx.passes.canonical.own_constants.prepare`).

    Args:
        model: stays as it is.
        protect: names of nodes, outputs and initializers whose axes stay as they are, or shell patterns.
        caches: names of inputs that may lose elements; other inputs stay as they are.
    """
    graph = Graph(Atoms(), concretize(model), model.opset_imports.get("", 1))
    known = {one.past for one in find_caches(model)} | set(caches)
    inputs = [value for value in real_inputs(model) if value.name in known and value in graph.concrete.shapes]
    graph.caches = frozenset(inputs)
    for node in model.graph:
        relate(node, graph)
    for value in inputs:
        if value.name not in caches:
            for use in value.uses():
                reason = f"{value.name} is an input; the option change_caches cuts it too"
                graph.fix(use.node, graph.axes(value) or [], reason)
    for output in model.graph.outputs:
        producer = output.producer()
        axes = graph.axes(output)
        if axes is not None and producer is not None:
            graph.fix(producer, axes, "an output of the model keeps its shape")
    own = {
        node: [*node.outputs, *(v for v in node.inputs if v is not None and graph.concrete.holds(v))]
        for node in model.graph
    }
    names = {node: {str(node.name), *(str(value.name) for value in values)} for node, values in own.items()}
    every = set().union(*names.values())
    protected = set().union(*(chosen(pattern, every) for pattern in protect))
    for node, values in own.items():
        if names[node] & protected:
            for value in values:
                graph.fix(node, graph.axes(value) or [], "protected")
    return Coupling(model, graph, protect, caches)
