"""What is known of a group of channels while its nodes are looked at, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.channels.coupling import Coupling, Group, Site
from obs_onnx.passes.channels.places import combining, standing
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.scopes import reads
from obs_onnx.passes.ops import key
from obs_onnx.passes.traits.relation import Mix

__all__ = ["Fold", "Rotatable", "Scan", "Stays", "Treatment"]

Fold = tuple[tuple[str, int], ...]
"""Constants with a factor per channel, and the power of each, whose product a value still lacks."""

_EVEN = 1e-4  # of the largest factor of a scale: smaller ones cannot be divided by


class Stays(Exception):  # noqa: N818 - a signal, not an error
    """The group cannot be rotated; the message says why."""


@dataclass(frozen=True)
class Treatment:
    """What happens to an axis of an initializer.

    Attributes:
        fold: factors that each channel is multiplied by before anything else.
        unit: it is such a factor itself, and becomes ones; otherwise it is rotated.
    """

    fold: Fold = ()
    unit: bool = False


@dataclass(frozen=True)
class Rotatable:
    """A group that can be rotated.

    Attributes:
        group: which one.
        sites: what happens to each of its axes.
        readers: weights that multiply its channels.
        keeps_ones: only matrices that keep the vector of ones leave the model what it is.
        by: groups each channel of which may have a matrix of its own (heads).
        normed: those of the readers that see the channels divided by their length.
    """

    group: Group
    sites: Mapping[Site, Treatment]
    readers: tuple[str, ...]
    keeps_ones: bool
    by: tuple[int, ...]
    normed: tuple[str, ...]


@dataclass
class Scan:
    """What is known of a group by now, node by node."""

    coupling: Coupling
    group: Group
    sites: dict[Site, Treatment] = field(default_factory=dict)
    readers: dict[str, bool] = field(default_factory=dict)
    keeps_ones: bool = False

    def __post_init__(self) -> None:
        self.mixes: dict[ir.Node, list[Mix]] = {}
        for mix in combining(self.coupling, self.group):
            self.mixes.setdefault(mix.node, []).append(mix)
        self.scales: dict[ir.Value, Fold] = {}
        self.squares: set[ir.Value] = set()
        self.lengths: set[ir.Value] = set()  # what follows from the length of the vector of channels
        self.normed: set[ir.Value] = set()
        self._axes: dict[ir.Value, list[int]] = {}

    def axes(self, value: ir.Value | None) -> list[int]:
        """Axes of a value in which the group stands."""
        if value is None:
            return []
        if value not in self._axes:
            self._axes[value] = standing(self.coupling, self.group, value)
        return self._axes[value]

    def holds(self, value: ir.Value) -> bool:
        """Whether a value is a constant."""
        return self.coupling.graph.concrete.holds(value)

    def found(self) -> Rotatable:
        """The group, once every node was visited."""
        left = [site.initializer for site in self.group.sites if site not in self.sites]
        if left:
            raise Stays(f"nothing is known about how {left[0]} is used")
        if not self.readers:
            raise Stays("no layer reads it")
        for name in {name for treatment in self.sites.values() for name, _ in treatment.fold}:
            held = np.abs(self.array(name).astype(np.float64))
            if not held.min() > _EVEN * held.max():
                raise Stays(f"the scale {name} is zero for some channels")
        normed = tuple(name for name, divided in self.readers.items() if divided)
        return Rotatable(self.group, self.sites, tuple(self.readers), self.keeps_ones, self._by(), normed)

    def array(self, name: str) -> NDArray[np.generic]:
        """An initializer."""
        found = self.coupling.graph.concrete.constant(self.coupling.named(name))
        assert found is not None
        return found

    def _by(self) -> tuple[int, ...]:
        """Groups that stand in every value beside this one, and in the same axis of every constant."""
        common: set[int] | None = None
        for value, axes in self._axes.items():
            if not axes:
                continue
            beside = self.coupling.groups_of(value)
            if self.holds(value):
                labels = self.coupling.axes(value) or []
                for axis in axes:
                    beside &= set(np.unique(self.coupling.groups_along(labels[axis])).tolist())
            common = beside if common is None else common & beside
        return tuple(sorted((common or set()) - {self.group.id, -1}))

    def check(self, node: ir.Node, value: ir.Value) -> None:
        """Refuse a value that holds the group in a way that cannot be turned."""
        axes = self.axes(value)
        if value.is_graph_input() or value.is_graph_output():
            raise Stays(f"{value.name} is part of the interface of the model")
        if len(axes) > 1 and not self.holds(value):
            raise Stays(f"{node.name} ({key(node)}) pairs its channels with each other")
        for axis in axes:
            counts = np.diff(self.coupling.incidence(self.group, value, axis).indptr)
            if (counts != counts[0]).any():
                raise Stays(f"{value.name} holds a part of it")
        if self.holds(value):
            tensor = value.const_value
            if tensor is None or not node_facts.is_float(tensor):
                raise Stays(f"{value.name} does not hold numbers that could be rotated")

    def scale(self, value: ir.Value) -> Fold:
        """What an activation still lacks."""
        return self.scales.get(value, ())

    def plain(self, node: ir.Node, *values: ir.Value) -> None:
        """Refuse values that lack factors."""
        if any(self.scale(value) for value in values):
            raise Stays(f"{node.name} ({key(node)}) follows a scale per channel that no layer takes in")

    def lean(self, node: ir.Node, *values: ir.Value) -> None:
        """Something is added to all channels alike, or their mean is taken."""
        self.plain(node, *values)
        self.keeps_ones = True

    def treat(self, value: ir.Value, axis: int, treatment: Treatment) -> None:
        """Note what happens to an axis of a constant."""
        site = Site(str(value.name), axis)
        if self.sites.setdefault(site, treatment) != treatment:
            raise Stays(f"{value.name} serves several nodes, for which it would have to change differently")

    def turn(self, value: ir.Value, fold: Fold = ()) -> None:
        """A constant is rotated along all axes in which the group stands."""
        for axis in self.axes(value):
            self.treat(value, axis, Treatment(fold))

    def give(self, node: ir.Node, fold: Fold = ()) -> None:
        """What the outputs lack."""
        divided = any(value in self.normed or value in self.lengths for value in reads(node))
        for value in node.outputs:
            if self.axes(value):
                self.scales[value] = fold
                self.normed.update([value] if divided else [])

    def parted(self, node: ir.Node) -> tuple[list[ir.Value], list[ir.Value], list[ir.Value]]:
        """Inputs that hold the group: activations, and constants; and numbers that do not hold it."""
        given = [value for value in node.inputs if value is not None]
        there = [value for value in given if self.axes(value)]
        others = [value for value in given if not self.axes(value) and self.is_number(value)]
        data = [value for value in there if not self.holds(value)]
        return data, [value for value in there if self.holds(value)], others

    def is_number(self, value: ir.Value) -> bool:
        """Whether a value holds numbers that are no integers, as far as is known."""
        dtype = self.coupling.graph.concrete.dtypes.get(value)
        return dtype is None or dtype.is_floating_point()

    def fits(self, value: ir.Value, axis: int) -> bool:
        """Whether an axis is each channel once and nothing else."""
        found = self.coupling.incidence(self.group, value, axis)
        return bool(found.shape == (self.group.n, self.group.n) and found.nnz == self.group.n)

    def factor(self, node: ir.Node, value: ir.Value, power: int) -> Fold:
        """A constant with a factor for each channel becomes ones."""
        (axis,) = self.axes(value)
        if value.const_value is None or value.const_value.size != self.group.n or not self.fits(value, axis):
            raise Stays(f"{node.name} ({key(node)}) scales more than channels")
        self.treat(value, axis, Treatment(unit=True))
        return ((str(value.name), power),)
