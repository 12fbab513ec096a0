"""Where the channels of a group come from, and where they are added up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.channels.coupling import Coupling, Group, Site
from obs_onnx.passes.channels.places import combining, standing
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.scopes import bodies
from obs_onnx.passes.ops import lookup

__all__ = ["Origins", "Reading"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Reading:
    """A node that adds up channels of a group.

    Attributes:
        node: which one.
        site: of the weight that multiplies them; None where that is another activation.
        values: names of the activations that hold the channels there.
    """

    node: ir.Node
    site: Site | None
    values: tuple[str, ...]


class Origins:
    """The nodes of one model, as far as they are about channels.

    Args:
        coupling: of the model.
    """

    def __init__(self, coupling: Coupling) -> None:
        self._coupling = coupling
        held = coupling.graph.concrete.holds
        summed = [
            (value, mix.axis)
            for mix in coupling.graph.mixes
            if mix.kind == "sum" and (value := mix.node.inputs[mix.slot]) is not None and held(value)
        ]
        self._summed = {(str(value.name), axis) for value, axis in summed}
        self._weights = {str(value.name) for value, _ in summed if _is_float(value)}
        self._mixing = {
            mix.node
            for mix in coupling.graph.mixes
            if (value := mix.node.inputs[mix.slot]) is None or str(value.name) not in self._weights
        }
        self._varying: set[ir.Value] = set(coupling.model.graph.inputs)
        for node in coupling.model.graph:
            inputs = [value for value in node.inputs if value is not None]
            if lookup(node).random or any(bodies(node)) or any(v in self._varying for v in inputs):
                self._varying.update(node.outputs)
        self._of: dict[int, list[ir.Node]] = {}
        self._groups: dict[ir.Value, set[int]] = {}

    def _stands(self, group: Group, value: ir.Value) -> bool:
        if value not in self._groups:
            self._groups[value] = self._coupling.groups_of(value)
        return group.id in self._groups[value]

    def _nodes(self, group: Group) -> list[ir.Node]:
        """Nodes that give channels of a group, in order."""
        if group.id not in self._of:
            self._of[group.id] = [
                node
                for node in self._coupling.model.graph
                if any(self._stands(group, y) for y in node.outputs)
            ]
        return self._of[group.id]

    def readings(self, group: Group) -> list[Reading] | None:
        """Where channels of a group are added up; None where something else happens to several at once.

        So it is where activations are integers, among which another number than 0 counts as nothing.
        """
        held, found = self._coupling.graph.concrete.holds, []
        for mix in combining(self._coupling, group):
            value = mix.node.inputs[mix.slot]
            if mix.kind != "sum" or value is None:
                return None
            if mix.operand is not None and not held(value):
                return None
            if held(value):
                given = [
                    v for v in mix.node.inputs if v is not None and not held(v) and self._stands(group, v)
                ]
                given += [v for v in mix.node.outputs if not given and self._stands(group, v)]
                names = tuple(str(v.name) for v in given)
                found.append(Reading(mix.node, Site(str(value.name), mix.axis), names))
            else:
                found.append(Reading(mix.node, None, (str(value.name),)))
        return found

    def produced(self, group: Group) -> list[Site]:
        """Axes of weights along which the channels are made of others."""
        return [site for site in self.own(group) if site.initializer in self._weights]

    def own(self, group: Group) -> list[Site]:
        """Axes of constants that belong to single channels, from their weights to all that follows."""
        return [site for site in group.sites if (site.initializer, site.axis) not in self._summed]

    def even(self, group: Group) -> bool:
        """Whether all channels hold equally many elements of each constant, and each of them once."""
        return all(
            set(np.diff(incidence.indptr)) == {incidence.nnz // group.n}
            for incidence in (self._coupling.incidence(group, *site) for site in group.sites)
        )

    def alike(self, group: Group) -> bool:
        """Whether nothing but constants of their own tells channels of a group apart."""
        for node in self._nodes(group):
            there = [value for value in node.inputs if value is not None and self._stands(group, value)]
            if not there or lookup(node).random or any(bodies(node)):
                return False
        return True

    def additive(self, group: Group) -> bool:
        """Whether channels are linear in the constants of their own, all of them in the same way."""
        held, summed = self._coupling.graph.concrete.holds, self._contracting(group)
        for node in self._nodes(group):
            there = [value for value in node.inputs if value is not None and self._stands(group, value)]
            data = [value for value in there if not held(value) and node not in summed]
            weights = [value for value in there if held(value) and str(value.name) in self._weights]
            op = lookup(node)
            if op.linear is not None and not op.quantizes and len(data) + len(weights) == 1:
                continue
            if not (op.view or op.additive):
                return False
        return True

    def _contracting(self, group: Group) -> set[ir.Node]:
        return {mix.node for mix in combining(self._coupling, group)}

    def fixed(
        self,
        group: Group,
        idle: Mapping[str, Mask],
        zeros: Mapping[str, Mask],
        is_zero: Callable[[str], Mask],
    ) -> Mapping[str, Mask]:
        """Channels that do not depend on the input, by the name of each value that holds them.

        Args:
            group: of channels.
            idle: channels that a weight makes of nothing, by its name.
            zeros: channels for which a constant holds zeros, by its name.
            is_zero: name of an activation -> channels of it that are zero for some input.
        """
        found: dict[str, Mask] = {}
        summed = self._contracting(group)
        for node in self._nodes(group):
            mask = self._fixed_by(group, node, found, idle, contracts=node in summed)
            if node not in summed:
                mask = mask | self._annihilated(group, node, found, zeros, is_zero)
            found.update((str(value.name), mask) for value in node.outputs if self._stands(group, value))
        return found

    def _fixed_by(
        self,
        group: Group,
        node: ir.Node,
        known: Mapping[str, Mask],
        idle: Mapping[str, Mask],
        *,
        contracts: bool,
    ) -> Mask:
        """Channels that a node gives and that do not depend on the input."""
        concrete, nothing = self._coupling.graph.concrete, np.zeros(group.n, bool)
        if lookup(node).random or any(bodies(node)):
            return nothing
        inputs = [value for value in node.inputs if value is not None]
        given = [value for value in inputs if value in self._varying]
        weights = [str(v.name) for v in inputs if concrete.holds(v) and str(v.name) in self._weights]
        meeting = [v for v in given if not lookup(node).joins or self._stands(group, v)]
        each = [known.get(str(value.name), nothing) for value in meeting]
        fixed = nothing if contracts or node in self._mixing else np.all([~nothing, *each], axis=0)
        if weights and len(given) < 2:
            fixed = fixed | np.all([idle.get(name, nothing) for name in weights], axis=0)
        return np.asarray(fixed)

    def _annihilated(
        self,
        group: Group,
        node: ir.Node,
        known: Mapping[str, Mask],
        zeros: Mapping[str, Mask],
        is_zero: Callable[[str], Mask],
    ) -> Mask:
        """Channels that a factor makes zero, or another constant, whatever else goes in."""
        found = np.zeros(group.n, bool)
        for slot in lookup(node).annihilates:
            value = node.inputs[slot] if slot < len(node.inputs) else None
            name = "" if value is None else str(value.name)
            if name in zeros:
                found |= zeros[name]
            elif name in known and (known[name] & ~found).any():
                found |= known[name] & is_zero(name)
        return found

    def number(self, group: Group, name: str, array: NDArray[np.generic]) -> NDArray[np.float64]:
        """The number that each channel is everywhere in a value; not a number where it is several."""
        found = np.full(group.n, np.nan)
        low, high = np.full(group.n, np.inf), np.full(group.n, -np.inf)
        for axis in standing(self._coupling, group, name):
            rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1).astype(np.float64)
            elements = (
                self._coupling.incidence(group, name, axis).sorted_indices().indices.reshape(group.n, -1)
            )
            low = np.minimum(low, rows[elements].min((1, 2)))
            high = np.maximum(high, rows[elements].max((1, 2)))
        found[low == high] = low[low == high]
        return found


def _is_float(value: ir.Value) -> bool:
    return value.const_value is not None and node_facts.is_float(value.const_value)
