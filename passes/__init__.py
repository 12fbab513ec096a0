"""The compiler half: rewrites of an ONNX graph, and what is known about operators.

In: any ONNX model. Out: a canonical one, its layers and channels, what they cost, and rewritten or
differentiated models. Next: :mod:`obs_onnx` runs them. Everything is imported on first use, so that the
command line starts without loading the graph library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obs_onnx.passes.autodiff.gradient import Gradient, HessianVectorProduct
    from obs_onnx.passes.autodiff.losses import append_loss
    from obs_onnx.passes.canonical.canonicalize import canonicalize
    from obs_onnx.passes.canonical.own_constants import prepare
    from obs_onnx.passes.channels.coupling import Coupling, Group, couple
    from obs_onnx.passes.channels.keep_file import keep_file, replay
    from obs_onnx.passes.channels.remove_channels import RemoveChannels
    from obs_onnx.passes.channels.silence import silence
    from obs_onnx.passes.costs.macs import count_macs, macs_per_node
    from obs_onnx.passes.graph.extract import extract
    from obs_onnx.passes.graph.set_weights import SetWeights
    from obs_onnx.passes.layers.find_layers import find_layers
    from obs_onnx.passes.layers.layer import Layer
    from obs_onnx.passes.layers.stages import plan_stages

__all__ = [
    "Coupling",
    "Gradient",
    "Group",
    "HessianVectorProduct",
    "Layer",
    "RemoveChannels",
    "SetWeights",
    "append_loss",
    "canonicalize",
    "count_macs",
    "couple",
    "extract",
    "find_layers",
    "keep_file",
    "macs_per_node",
    "plan_stages",
    "prepare",
    "replay",
    "silence",
]

_HOMES = {
    "Coupling": "channels.coupling",
    "Gradient": "autodiff.gradient",
    "Group": "channels.coupling",
    "HessianVectorProduct": "autodiff.gradient",
    "Layer": "layers.layer",
    "RemoveChannels": "channels.remove_channels",
    "SetWeights": "graph.set_weights",
    "append_loss": "autodiff.losses",
    "canonicalize": "canonical.canonicalize",
    "count_macs": "costs.macs",
    "couple": "channels.coupling",
    "extract": "graph.extract",
    "find_layers": "layers.find_layers",
    "keep_file": "channels.keep_file",
    "macs_per_node": "costs.macs",
    "plan_stages": "layers.stages",
    "prepare": "canonical.own_constants",
    "replay": "channels.keep_file",
    "silence": "channels.silence",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
