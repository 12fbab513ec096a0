"""Normalizations, and the softmax family.

Statistics of the very input they divide by leave most of them without a global Lipschitz constant;
BatchNormalization with stored statistics is a scale per channel.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.ops import facts
from obs_onnx.passes.ops.bounds import data_only
from obs_onnx.passes.ops.registry import Op

__all__ = ["TABLE"]


def _batch_normalization(node: ir.Node) -> float | None:
    scale, variance = facts.array(node, 1), facts.array(node, 4)
    if scale is None or variance is None or facts.int_attribute(node, "training_mode") or scale.size == 0:
        return None
    epsilon = facts.float_attribute(node, "epsilon", 1e-5)
    return float(np.abs(scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)).max())


def _log_softmax(node: ir.Node) -> float | None:
    """The derivative is I - 1 p^T, with |1| = sqrt(n) and |p| <= 1."""
    shape = facts.dims(node.inputs[0])
    if shape is None or not shape:
        return None
    old = (facts.version(node) or 13) < 13
    axis = facts.int_attribute(node, "axis", 1 if old else -1)
    lengths = shape[axis:] if old else (shape[axis],)
    known = [length for length in lengths if length is not None]
    return 1.0 + math.sqrt(math.prod(known)) if len(known) == len(lengths) else None


_NONE = Op(lipschitz=data_only(None))

TABLE = {
    "BatchNormalization": Op(lipschitz=data_only(_batch_normalization)),
    "Softmax": Op(lipschitz=data_only(1.0)),
    "LogSoftmax": Op(lipschitz=data_only(_log_softmax)),
    "Hardmax": _NONE,
    "LayerNormalization": _NONE,
    "RMSNormalization": _NONE,
    "GroupNormalization": _NONE,
    "InstanceNormalization": _NONE,
    "MeanVarianceNormalization": _NONE,
    "LpNormalization": _NONE,
    "LRN": _NONE,
    "SimplifiedLayerNormalization": _NONE,
    "com.microsoft::SkipLayerNormalization": _NONE,
    "com.microsoft::SkipSimplifiedLayerNormalization": _NONE,
    "com.microsoft::EmbedLayerNormalization": _NONE,
    "com.microsoft::GroupNorm": _NONE,
}
