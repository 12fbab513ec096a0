"""The compiler half: rewrites of an ONNX graph, and what is known about operators.

Everything is imported on first use, so that the command line starts without loading the graph library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obs_onnx.passes.canonical import canonicalize
    from obs_onnx.passes.coupling import Coupling, Group, couple
    from obs_onnx.passes.gates import insert_gate
    from obs_onnx.passes.gradient import Gradient, HessianVectorProduct
    from obs_onnx.passes.keep_file import keep_file, replay
    from obs_onnx.passes.layers import Layer, find_layers
    from obs_onnx.passes.losses import append_loss
    from obs_onnx.passes.macs import count_macs, macs_per_node
    from obs_onnx.passes.prepare import prepare
    from obs_onnx.passes.remove_channels import RemoveChannels
    from obs_onnx.passes.segments import extract, plan_stages
    from obs_onnx.passes.set_weights import SetWeights
    from obs_onnx.passes.silence import silence

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
    "insert_gate",
    "keep_file",
    "macs_per_node",
    "plan_stages",
    "prepare",
    "replay",
    "silence",
]

_HOMES = {
    "Coupling": "coupling",
    "Gradient": "gradient",
    "Group": "coupling",
    "HessianVectorProduct": "gradient",
    "Layer": "layers",
    "RemoveChannels": "remove_channels",
    "SetWeights": "set_weights",
    "append_loss": "losses",
    "canonicalize": "canonical",
    "count_macs": "macs",
    "couple": "coupling",
    "extract": "segments",
    "find_layers": "layers",
    "insert_gate": "gates",
    "keep_file": "keep_file",
    "macs_per_node": "macs",
    "plan_stages": "segments",
    "prepare": "prepare",
    "replay": "keep_file",
    "silence": "silence",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
