"""Models that multiply by a matrix, and scores to feed them with."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def scores(count: int = 40, classes: int = 7, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, classes)).astype(np.float32)


def linear(weight: np.ndarray, x: str = "x", y: str = "y") -> bytes:
    """A model ``y = x @ weight``."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", [x, "w"], [y])],
        "g",
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["N", weight.shape[0]])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", weight.shape[1]])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    return model.SerializeToString()
