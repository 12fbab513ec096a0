"""The options of :func:`obs_onnx.entrypoints.inspect.inspect`."""

from __future__ import annotations

from dataclasses import dataclass

from obs_onnx.data.options import FixedInputs, FreeSizes
from obs_onnx.pruning.options import ChangingCaches
from obs_onnx.runtimes.options import CustomDomains

__all__ = ["InspectOptions"]


@dataclass(frozen=True, kw_only=True)
class InspectOptions(FixedInputs, FreeSizes, ChangingCaches, CustomDomains, title="Data"):
    """Everything that an inspection can be told."""
