"""A small perceptron and points that it can learn to tell apart."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

DEEP = """g (float[N, 6] x) => (float[N, 4] z) {
    a = Gemm(x, w1, b1)  h = Relu(a)  z = Gemm(h, w2, b2)
}"""


def tensors(rng, **shapes):
    return {name: (rng.standard_normal(shape) / 2).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def deep(make_proto, rng):
    return make_proto(DEEP, tensors(rng, w1=(6, 16), b1=(16,), w2=(16, 4), b2=(4,)))


@pytest.fixture
def easy(rng):
    """Points around four centres."""
    centres, labels = rng.standard_normal((4, 6)) * 2, rng.integers(0, 4, 400)
    x = centres[labels] + 0.5 * rng.standard_normal((400, 6))
    return {"x": x.astype(np.float32), "labels": labels}


def values(model):
    model = ir.to_proto(model) if isinstance(model, ir.Model) else model
    return {t.name: onnx.numpy_helper.to_array(t).astype(float) for t in model.graph.initializer}
