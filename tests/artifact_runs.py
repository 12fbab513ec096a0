"""Names of the files for a device, and models with zeros."""

from __future__ import annotations

import numpy as np
import onnx

NAMES = {"training_model.onnx", "eval_model.onnx", "optimizer_model.onnx", "checkpoint"}


def thinned(model, rng):
    for tensor in model.graph.initializer:
        if tensor.name.startswith("w"):
            array = onnx.numpy_helper.to_array(tensor) * (rng.random(tensor.dims) > 0.6)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), tensor.name))
    return model
