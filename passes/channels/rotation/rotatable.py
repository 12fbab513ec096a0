"""Groups of channels without a basis of their own: which can be rotated, and what keeps the others.

An orthogonal matrix may stand between all that gives channels of a group and all that reads them, when every
node in between commutes with it: sums of members of the group, moves along other axes, products with what is
the same for all channels, and norms over exactly this axis. Scales per channel between a norm and its readers
go into the readers first. A mean over the channels (LayerNormalization) and what is added to all of them
alike commute with matrices that keep the vector of ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.channels.coupling import Coupling, Group, Site
from obs_onnx.passes.channels.places import combining, standing
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.scopes import reads
from obs_onnx.passes.ops import key, linear, lookup
from obs_onnx.passes.traits.linear import Linear
from obs_onnx.passes.traits.relation import Mix

__all__ = ["Fold", "Rotatable", "Stays", "Treatment", "rotatable"]

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


def rotatable(coupling: Coupling, group: Group) -> Rotatable:
    """How a group can be rotated.

    Raises:
        Stays: it cannot.
    """
    scan = _Scan(coupling, group)
    for node in coupling.model.graph:
        scan.visit(node)
    return scan.found()


@dataclass
class _Scan:
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

    def array(self, name: str) -> np.ndarray:
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

    def visit(self, node: ir.Node) -> None:
        """Take in what a node does.

        Raises:
            Stays: it does not commute with a rotation.
        """
        touched = [value for value in (*reads(node), *node.outputs) if self.axes(value)]
        if not touched and not any(value in self.squares for value in reads(node)):
            if any(value in self.lengths for value in reads(node)):
                self.lengths.update(node.outputs)
            return
        for value in touched:
            self._check(node, value)
        op = lookup(node)
        if op.shape_only:
            return
        rule = _RULES.get(key(node), _alike if op.view or op.additive else None)
        if rule is not _reduced and any(value in self.squares for value in reads(node)):
            raise Stays(f"{node.name} ({key(node)}) reads squares of single channels")
        if found := linear(node):
            _layer(self, node, found)
            return
        if rule is None:
            raise Stays(f"{node.name} ({key(node)}) does not treat all of its channels alike")
        rule(self, node)

    def _check(self, node: ir.Node, value: ir.Value) -> None:
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


def _over(fold: Fold) -> Fold:
    return tuple((name, -power) for name, power in fold)


def _layer(scan: _Scan, node: ir.Node, found: Linear) -> None:
    """A constant weight: it gives the group, reads it, or leaves it alone."""
    weight, x = node.inputs[found.weight_input], node.inputs[found.data_input]
    assert weight is not None
    assert x is not None
    if found.layout.goi[0] > 1:
        raise Stays(f"{node.name} ({key(node)}) treats groups of channels by themselves")
    if found.integers is not None:
        raise Stays(f"{weight.name} is stored as integers")
    data, constants, others = scan.parted(node)
    summed = {mix.axis for mix in scan.mixes.get(node, []) if node.inputs[mix.slot] is weight}
    made = False
    for axis in scan.axes(weight):
        if axis in summed:
            scan.treat(weight, axis, Treatment(scan.scale(x)))
            scan.readers[str(weight.name)] = x in scan.normed
        else:
            scan.treat(weight, axis, Treatment())
            made = True
    outside = [value for value in data if value is not x]
    passes = not made and any(map(scan.axes, node.outputs))
    if passes and (outside or [value for value in others if value is not weight]):
        scan.lean(node, x, *outside)
    scan.plain(node, *outside)
    if passes and len(constants) > (weight in constants):
        scan.plain(node, x)
    for value in constants:
        if value is not weight:
            scan.turn(value)
    if passes:
        scan.give(node, scan.scale(x))


def _product(scan: _Scan, node: ir.Node) -> None:
    """Activations multiplied by each other: over the channels of both, or of one by what is no channel."""
    data, constants, _ = scan.parted(node)
    if constants or len(data) > 2 or len(node.inputs) > 2:
        raise Stays(f"{node.name} ({key(node)}) is no product of two activations")
    if scan.mixes.get(node):
        scan.plain(node, *data)
        if len(data) != 2 or any(map(scan.axes, node.outputs)):
            raise Stays(f"{node.name} ({key(node)}) sums its channels")
    elif len(data) != 1:
        raise Stays(f"{node.name} ({key(node)}) multiplies its channels by each other")
    else:
        scan.give(node, scan.scale(data[0]))


def _alike(scan: _Scan, node: ir.Node) -> None:
    """Linear in all that goes in, in the same way for all channels."""
    data, constants, others = scan.parted(node)
    if scan.mixes.get(node):
        raise Stays(f"{node.name} ({key(node)}) sums its channels")
    folds = {scan.scale(value) for value in data}
    if len(folds) > 1:
        raise Stays(f"{node.name} ({key(node)}) meets values of different scales per channel")
    fold = next(iter(folds), ())
    if others and lookup(node).additive and len(node.inputs) > 1:
        scan.lean(node, *data)
    for value in constants:
        scan.turn(value, _over(fold))
    scan.give(node, fold)


def _cast(scan: _Scan, node: ir.Node) -> None:
    """Numbers of another precision."""
    if not scan.is_number(node.outputs[0]):
        raise Stays(f"{node.name} (Cast) does not treat all of its channels alike")
    _alike(scan, node)


def _scaled(scan: _Scan, node: ir.Node) -> None:
    """Mul and Div: by what is the same for all channels, by a constant for each, or a square."""
    data, constants, _ = scan.parted(node)
    if len(data) == 2 and data[0] is data[1] and key(node) == "Mul":
        _square(scan, node)
        return
    if len(data) != 1 or (key(node) == "Div" and node.inputs[0] is not data[0]):
        raise Stays(f"{node.name} ({key(node)}) is not linear in its channels")
    fold = scan.scale(data[0])
    for value in constants:
        fold += scan.factor(node, value, 1 if key(node) == "Mul" else -1)
    scan.give(node, fold)


def _square(scan: _Scan, node: ir.Node) -> None:
    """Squares whose sum or mean over all channels is all that is read."""
    data, _, _ = scan.parted(node)
    if key(node) == "Pow":
        power = node_facts.array(node, 1)
        if len(data) != 1 or data[0] is not node.inputs[0] or power is None or (power != 2).any():
            raise Stays(f"{node.name} (Pow) is not linear in its channels")
    scan.plain(node, *data)
    scan.squares.update(node.outputs)


def _reduced(scan: _Scan, node: ir.Node) -> None:
    """A sum or mean: over other axes, of squares, or over the channels."""
    x = node.inputs[0]
    assert x is not None
    if not scan.mixes.get(node) and x in scan.squares:
        raise Stays(f"{node.name} ({key(node)}) reads squares of single channels")
    if not scan.mixes.get(node):
        _alike(scan, node)
    elif x in scan.squares:
        scan.lengths.update(node.outputs)
    else:
        if not scan.fits(x, scan.axes(x)[0]):
            raise Stays(f"{node.name} ({key(node)}) sums its channels with others")
        scan.lean(node, x)


def _length(scan: _Scan, node: ir.Node) -> None:
    """The length of the vector of channels, or that vector over its length."""
    data, _, _ = scan.parted(node)
    if not scan.mixes.get(node) or node.attributes.get_int("p", 2) != 2:
        raise Stays(f"{node.name} ({key(node)}) is not linear in its channels")
    scan.plain(node, *data)
    scan.lengths.update(node.outputs)
    scan.give(node)
    scan.normed.update(node.outputs)


def _normed(scale: int, shift: int | None) -> Callable[[_Scan, ir.Node], None]:
    """A norm over the channels, whose inputs have these positions."""

    def rule(scan: _Scan, node: ir.Node) -> None:
        data, constants, _ = scan.parted(node)
        mixes = scan.mixes.get(node, [])
        if not mixes or not scan.fits(data[0], scan.axes(data[0])[0]):
            raise Stays(f"{node.name} ({key(node)}) normalises other axes than its channels")
        scan.plain(node, *data)
        scan.keeps_ones |= any(mix.kind == "normalize" for mix in mixes)
        by_slot = {slot: value for slot, value in enumerate(node.inputs) if value in constants}
        if scale not in by_slot:
            raise Stays(f"{node.name} ({key(node)}) has a scale that is computed")
        fold = scan.factor(node, by_slot.pop(scale), 1)
        for slot, value in by_slot.items():
            scan.turn(value, _over(fold) if slot == shift else ())
        scan.give(node)
        scan.scales[node.outputs[0]] = fold
        scan.normed.add(node.outputs[0])

    return rule


def _picked(scan: _Scan, node: ir.Node) -> None:
    """Gather: rows of a table whose columns are channels, or places."""
    data, constants, _ = scan.parted(node)
    table = node.inputs[0]
    if scan.mixes.get(node) or table not in [*data, *constants]:
        raise Stays(f"{node.name} ({key(node)}) picks channels")
    if data:
        scan.give(node, scan.scale(data[0]))
        return
    scan.turn(constants[0])
    scan.give(node)


_RULES: dict[str, Callable[[_Scan, ir.Node], None]] = {
    **dict.fromkeys(("MatMul", "Gemm", "com.microsoft::FusedMatMul"), _product),
    **dict.fromkeys(("Slice", "Expand", "Tile", "Neg"), _alike),
    "Cast": _cast,
    **dict.fromkeys(("Mul", "Div"), _scaled),
    "Pow": _square,
    **dict.fromkeys(("ReduceMean", "ReduceSum"), _reduced),
    **dict.fromkeys(("ReduceL2", "ReduceSumSquare", "LpNormalization"), _length),
    "Gather": _picked,
    "LayerNormalization": _normed(1, 2),
    **dict.fromkeys(("RMSNormalization", "SimplifiedLayerNormalization"), _normed(1, None)),
    "com.microsoft::SkipLayerNormalization": _normed(2, 3),
    "com.microsoft::SkipSimplifiedLayerNormalization": _normed(2, None),
}
