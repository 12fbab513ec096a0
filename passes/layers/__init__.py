"""Layers: a constant weight and every node that multiplies by it, whatever the operator.

In: a canonical model. Out: :class:`Layer` objects with weight, bias, input and output, and the stages in
which they can be solved. Next: :mod:`obs_onnx.calibration` measures their inputs.
"""

from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.layer import Frozen, Layer, Use
from obs_onnx.passes.traits.linear import ConvGeometry, Linear, MatmulGeometry, WeightLayout

__all__ = [
    "ConvGeometry",
    "Frozen",
    "Layer",
    "Linear",
    "MatmulGeometry",
    "Use",
    "WeightLayout",
    "find_layers",
]
