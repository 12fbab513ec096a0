"""A model with zeros, how it was made and how it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from obs_onnx.allocation.curves import Curve
from obs_onnx.pruning.judgement import Attempt
from obs_onnx.reconstruction.layers import Solved

__all__ = ["WeightAttempt"]


@dataclass(frozen=True)
class WeightAttempt(Attempt):
    """A model with zeros and how it does on held-out data.

    Attributes:
        solved: what became of each layer.
        removed: weights set to zero, by layer name.
        renormalised: BatchNormalization statistics were estimated anew.
        curves: damage by layer, as far as it was measured.
    """

    solved: Mapping[str, Solved]
    removed: Mapping[str, int]
    renormalised: bool = False
    curves: Mapping[str, Curve] = field(default_factory=dict)
