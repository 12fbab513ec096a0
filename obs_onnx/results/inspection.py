"""What inspect() returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from obs_onnx.passes.costs.memory import Peak
from obs_onnx.passes.layers.layer import Frozen

__all__ = ["InspectedGroup", "InspectedLayer", "Inspection"]


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
        peak: memory of activations; None where a shape is not known.
        shapes: of the inputs at which all this was counted.
        free: names of free sizes that counted as one.
    """

    model: str
    layers: tuple[InspectedLayer, ...]
    groups: tuple[InspectedGroup, ...]
    frozen: tuple[Frozen, ...]
    frozen_channels: tuple[Frozen, ...]
    parameters: int
    macs: int
    peak: Peak | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    free: tuple[str, ...] = ()

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
            "shapes": self.shapes,
            "free": self.free,
        }
