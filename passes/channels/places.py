"""Where the channels of a group stand in the canonical weight ``w_GOI`` of a layer."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from scipy.sparse import csr_array

from obs_onnx.passes.channels.coupling import Coupling, Group
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.traits.linear import WeightLayout
from obs_onnx.passes.traits.relation import Mix

__all__ = ["Mix", "combining", "consumed", "elements_along", "produced", "standing"]


def elements_along(layout: WeightLayout, axis: int) -> NDArray[np.int64]:
    """For every weight of ``w_GOI``, its place along one axis of the stored tensor; shape (G, O, I)."""
    place = np.arange(layout.shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(layout.shape))])
    stored = np.broadcast_to(place, layout.shape)
    return np.rint(layout.to_matrix(stored) / layout.scale).astype(np.int64)


def consumed(coupling: Coupling, group: Group, layer: Layer) -> csr_array | None:
    """Input columns that go with each channel: bool, (channels, G * I); None when the layer consumes none.

    Column ``g * I + i`` is input ``i`` of group ``g`` in ``w_GOI``, kernel offsets included.
    """
    return _places(coupling, group, layer, contracted=True)


def produced(coupling: Coupling, group: Group, layer: Layer) -> csr_array | None:
    """Output rows that go with each channel: bool, (channels, G * O); None when the layer produces none."""
    return _places(coupling, group, layer, contracted=False)


def _places(coupling: Coupling, group: Group, layer: Layer, contracted: bool) -> csr_array | None:
    summed = {
        mix.axis
        for mix in coupling.graph.mixes
        if mix.kind == "sum" and (value := mix.node.inputs[mix.slot]) is not None and _is(value, layer)
    }
    inside = [1] * len(layer.layout.shape)
    if layer.integers is not None and layer.integers.bits:  # an axis of blocks, the last but one
        summed, inside[-1] = {len(inside) - 1}, layer.integers.block
    found = None
    for site in group.sites:
        if site.initializer != layer.name or (site.axis in summed) != contracted:
            continue
        elements_GOI = elements_along(layer.layout, site.axis) // inside[site.axis]
        element = (elements_GOI[:, 0, :] if contracted else elements_GOI[:, :, 0]).reshape(-1)
        here = csr_array(coupling.incidence(group, site.initializer, site.axis)[:, element])
        found = here if found is None else csr_array(found + here)
    return found


def _is(value: ir.Value, layer: Layer) -> bool:
    return value.name == layer.factor


def standing(coupling: Coupling, group: Group, value: ir.Value | str) -> list[int]:
    """Axes of a value in which channels of a group stand."""
    axes = coupling.axes(coupling.named(value) if isinstance(value, str) else value) or ()
    return [axis for axis, labels in enumerate(axes) if coupling.has(group, labels)]


def combining(coupling: Coupling, group: Group) -> list[Mix]:
    """Where elements that go with channels of a group are combined into others."""
    return [mix for mix in coupling.graph.mixes if coupling.has(group, mix.labels)]
