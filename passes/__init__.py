"""The compiler half: rewrites of an ONNX graph, and what is known about operators.

Everything is imported on first use, so that the command line starts without loading the graph library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obs_onnx.passes.canonical import canonicalize
    from obs_onnx.passes.layers import Layer, find_layers
    from obs_onnx.passes.macs import count_macs, macs_per_node
    from obs_onnx.passes.segments import extract, plan_stages
    from obs_onnx.passes.set_weights import SetWeights

__all__ = [
    "Layer",
    "SetWeights",
    "canonicalize",
    "count_macs",
    "extract",
    "find_layers",
    "macs_per_node",
    "plan_stages",
]

_HOMES = {
    "Layer": "layers",
    "SetWeights": "set_weights",
    "canonicalize": "canonical",
    "count_macs": "macs",
    "extract": "segments",
    "find_layers": "layers",
    "macs_per_node": "macs",
    "plan_stages": "segments",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
