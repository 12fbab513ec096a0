"""Arrays that training starts from, and zeros that it keeps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.calibration.layer_weights import LayerWeights
from obs_onnx.passes.errors import OptionError
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.training.checkpoint import Arrays

__all__ = ["trainable_arrays", "zero_masks"]

_TRAINED_TYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


def zero_masks(model: ir.Model, names: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """For the weights of layers that hold zeros: True where they are not zero, integers where they do not
    stand for zero."""
    masks = {}
    for layer in find_layers(model)[0]:
        if layer.name in names:
            mask = LayerWeights.of(model, layer).weight != 0
            if not mask.all():
                masks[layer.name] = mask
    return masks


def trainable_arrays(model: ir.Model, names: Sequence[str]) -> Arrays:
    """Weights of a model, all of a type that is trained.

    Raises:
        OptionError: there are none, or one is of another type.
    """
    if not names:
        raise OptionError("the model has no weights to train")
    start: Arrays = {}
    for name in names:
        tensor = model.graph.initializers[name].const_value
        assert tensor is not None
        if tensor.dtype not in _TRAINED_TYPES:
            raise OptionError(
                f"weight {name!r} is of type {tensor.dtype.name}: only float32 and float64 are trained, "
                "convert the model first"
            )
        start[name] = np.array(tensor.numpy())
    return start
