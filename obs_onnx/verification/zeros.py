"""Zeros are where they were promised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.calibration.layer_weights import weight_of
from obs_onnx.passes.errors import VerificationError
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.solvers import Pattern, follows

__all__ = ["check_zeros"]


def check_zeros(
    model: ir.Model, layers: Sequence[Layer], masks: Mapping[str, NDArray[np.bool_]], pattern: Pattern
) -> dict[str, int]:
    """Zero weights of each layer, counted in the model itself.

    Args:
        model: the pruned one.
        layers: that may have lost weights.
        masks: kept weights of each layer in canonical form; a layer without an entry promised nothing.
        pattern: that the masks must follow (a kept weight may be zero all the same).

    Raises:
        VerificationError: a removed weight is not zero, or a mask breaks the pattern.
    """
    zeros: dict[str, int] = {}
    for layer in layers:
        w_GOI = weight_of(model, layer)
        zeros[layer.name] = int(np.count_nonzero(w_GOI == 0))
        mask = masks.get(layer.name)
        if mask is None:
            continue
        if wrong := np.count_nonzero(w_GOI[~mask]):
            raise VerificationError(f"layer {layer.name} has {wrong} weights that should be zero and are not")
        if not mask.all() and not follows(mask, pattern):
            raise VerificationError(f"layer {layer.name} breaks the pattern {pattern}")
    return zeros
