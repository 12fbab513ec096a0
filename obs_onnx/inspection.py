"""inspect(): what is in a model, before anything is measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from obs_onnx.model_file import load_model
from obs_onnx.passes.canonical import canonicalize
from obs_onnx.passes.costs import Costs
from obs_onnx.passes.coupling import couple
from obs_onnx.passes.layers import Frozen, find_layers
from obs_onnx.passes.macs import macs_per_node
from obs_onnx.passes.memory import Peak, lifetimes, peak_memory, static_sizes
from obs_onnx.passes.parameters import float_tensors
from obs_onnx.passes.prepare import prepare

__all__ = ["InspectedGroup", "InspectedLayer", "Inspection", "inspect"]


@dataclass(frozen=True)
class InspectedLayer:
    """One layer.

    Attributes:
        name: of the weight's initializer.
        shape, weights: of the stored weight, and its number of elements.
        nonzero: weights that are not zero now.
        macs: of all nodes that use it.
        nodes: their names.
    """

    name: str
    op_type: str
    shape: tuple[int, ...]
    weights: int
    nonzero: int
    macs: int
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class InspectedGroup:
    """Channels that can be removed, each along with all that it is coupled to.

    Attributes:
        name: of the first initializer and axis they stand in.
        channels: how many.
        tensors: all initializers and axes they stand in.
        macs: multiply-accumulates of one example that all but one of them take.
    """

    name: str
    channels: int
    tensors: tuple[tuple[str, int], ...]
    macs: int


@dataclass(frozen=True)
class Inspection:
    """Layers in topological order, groups of channels, and what is left alone, with the reason.

    Attributes:
        frozen: nodes whose weights mode ``weights`` leaves alone.
        frozen_channels: nodes that keep channels from being removed.
        peak: memory of activations, free sizes counting as one; None where a shape is not known.
    """

    model: str
    layers: tuple[InspectedLayer, ...]
    groups: tuple[InspectedGroup, ...]
    frozen: tuple[Frozen, ...]
    frozen_channels: tuple[Frozen, ...]
    parameters: int
    macs: int
    peak: Peak | None = None

    @property
    def totals(self) -> dict[str, int | str | None]:
        """Figures of the whole model."""
        return {
            "parameters": self.parameters,
            "prunable": sum(layer.weights for layer in self.layers),
            "macs": self.macs,
            "peak_activation_bytes": None if self.peak is None else self.peak.bytes,
            "peak_node": None if self.peak is None else self.peak.node,
        }

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "schema": 1,
            "model": self.model,
            "layers": self.layers,
            "groups": self.groups,
            "frozen": self.frozen,
            "frozen_channels": self.frozen_channels,
            **self.totals,
        }


def inspect(path: str | os.PathLike[str], *, custom_domains: Sequence[str] = ()) -> Inspection:
    """Layers and channels of a model file, and what is left alone and why.

    Raises:
        ModelError: see :func:`obs_onnx.model_file.load_model`.
    """
    model = load_model(path, custom_domains=custom_domains)
    parameters = sum(tensor.size for tensor in float_tensors(model))
    canonical = canonicalize(model)
    layers, frozen = find_layers(canonical)
    macs = macs_per_node(canonical)
    found = []
    for layer in layers:
        tensor = canonical.graph.initializers[layer.name].const_value
        assert tensor is not None
        nodes = tuple(use.node for use in layer.uses)
        found.append(
            InspectedLayer(
                layer.name,
                layer.op_type,
                layer.layout.shape,
                layer.size,
                int((tensor.numpy() != 0).sum()),
                sum(macs.get(node, 0) for node in nodes),
                nodes,
            )
        )
    coupling = couple(prepare(model))
    cost = Costs(coupling).macs
    scale = sum(macs.values()) / max(cost.value({}), 1)
    groups = tuple(
        InspectedGroup(
            group.name,
            group.n,
            tuple((site.initializer, site.axis) for site in group.sites),
            round(float(cost.saving({}, group.id, 1)) * scale),
        )
        for group in coupling.groups
    )
    return Inspection(
        str(path),
        tuple(found),
        groups,
        tuple(frozen),
        tuple(coupling.frozen),
        parameters,
        sum(macs.values()),
        _peak(canonical),
    )


def _peak(model: ir.Model) -> Peak | None:
    sizes = static_sizes(model)
    known = all(str(value.name) in sizes for value in lifetimes(model.graph))
    return peak_memory(model, sizes) if known else None
