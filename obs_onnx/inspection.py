"""inspect(): what is in a model, before anything is measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from obs_onnx.model_file import load_model
from obs_onnx.passes.canonical import canonicalize
from obs_onnx.passes.layers import Frozen, find_layers
from obs_onnx.passes.macs import macs_per_node
from obs_onnx.passes.parameters import float_tensors

__all__ = ["InspectedLayer", "Inspection", "inspect"]


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
class Inspection:
    """Layers in topological order, and nodes whose weights are left alone, with the reason."""

    model: str
    layers: tuple[InspectedLayer, ...]
    frozen: tuple[Frozen, ...]
    parameters: int
    macs: int

    @property
    def totals(self) -> dict[str, int]:
        """Sums over the model."""
        weights = sum(layer.weights for layer in self.layers)
        return {"parameters": self.parameters, "prunable": weights, "macs": self.macs}

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "schema": 1,
            "model": self.model,
            "layers": self.layers,
            "frozen": self.frozen,
            **self.totals,
        }


def inspect(path: str | os.PathLike[str], *, custom_domains: Sequence[str] = ()) -> Inspection:
    """Layers of a model file, and what is left alone and why.

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
    return Inspection(str(path), tuple(found), tuple(frozen), parameters, sum(macs.values()))
