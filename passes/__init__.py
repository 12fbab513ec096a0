"""The compiler half: rewrites of an ONNX graph, and what is known about operators."""

from __future__ import annotations

from obs_onnx.passes.canonical import canonicalize
from obs_onnx.passes.layers import (
    ConvGeometry,
    Frozen,
    Layer,
    MatmulGeometry,
    Use,
    WeightLayout,
    find_layers,
)
from obs_onnx.passes.macs import count_macs, macs_per_node
from obs_onnx.passes.set_weights import SetWeights

__all__ = [
    "ConvGeometry",
    "Frozen",
    "Layer",
    "MatmulGeometry",
    "SetWeights",
    "Use",
    "WeightLayout",
    "canonicalize",
    "count_macs",
    "find_layers",
    "macs_per_node",
]
