"""Small nets to train, and the engines to compare."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pytest

MLP = """g (float[N, 6] x) => (float[N, 4] z) { a = Gemm(x, w1, b1)  h = Relu(a)  z = Gemm(h, w2, b2) }"""
CONV = """g (float[N, 2, 8, 8] x) => (float[N, 4] z) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  r = Relu(a)
    m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
    c = Conv <pads = [1, 1, 1, 1], group = 2> (m, w2, b2)  s = Relu(c)
    p = GlobalAveragePool(s)  f = Flatten(p)  z = Gemm <transB = 1> (f, w3, b3)
}"""
RESIDUAL = """g (float[N, 2, 8, 8] x) => (float[N, 4] z) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  r = Relu(a)
    b = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)  s = Relu(b)
    c = Conv <pads = [1, 1, 1, 1]> (s, w3)
    d = Conv <strides = [2, 2]> (r, w4)
    e = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (c)
    j = Add(d, e)  t = Relu(j)  q = ReduceMean <keepdims = 0> (t, axes)  z = Gemm(q, w5, b5)
}"""
NORMALIZED = """g (float[N, 5, 6] x) => (float[N, 4] z) {
    a = MatMul(x, w1)  n = LayerNormalization <axis = -1> (a, s1, b1)  g1 = Sigmoid(n)  h = Mul(n, g1)
    y = Tanh(h)  f = Flatten(y)  z = Gemm(f, w2, b2)
}"""
ATTENTION = """g (float[N, 5, 6] x) => (float[N, 4] z) {
    q = MatMul(x, w1)  k = MatMul(x, w2)  v = MatMul(x, w3)
    kt = Transpose <perm = [0, 2, 1]> (k)  s = MatMul(q, kt)  d = Div(s, root)
    p = Softmax <axis = -1> (d)  o = MatMul(p, v)  u = MatMul(o, w4)  r = Add(x, u)
    m = ReduceMean <keepdims = 0> (r, one)  z = Gemm(m, w5, b5)
}"""

SHAPES = {
    "mlp": (MLP, {"w1": (6, 16), "b1": (16,), "w2": (16, 4), "b2": (4,)}),
    "conv": (
        CONV,
        {"w1": (4, 2, 3, 3), "b1": (4,), "w2": (6, 2, 3, 3), "b2": (6,), "w3": (4, 6), "b3": (4,)},
    ),
    "residual": (
        RESIDUAL,
        {
            "w1": (6, 2, 3, 3),
            "b1": (6,),
            "w2": (5, 6, 3, 3),
            "b2": (5,),
            "w3": (6, 5, 3, 3),
            "w4": (6, 6, 1, 1),
            "w5": (6, 4),
            "b5": (4,),
        },
    ),
    "normalized": (NORMALIZED, {"w1": (6, 8), "s1": (8,), "b1": (8,), "w2": (40, 4), "b2": (4,)}),
    "attention": (
        ATTENTION,
        {"w1": (6, 6), "w2": (6, 6), "w3": (6, 6), "w4": (6, 6), "w5": (6, 4), "b5": (4,)},
    ),
}
FIXED = {
    "residual": {"axes": np.array([2, 3])},
    "attention": {"root": np.float32(6**0.5), "one": np.array([1])},
}
INPUTS = {"mlp": (6,), "conv": (2, 8, 8), "residual": (2, 8, 8), "normalized": (5, 6), "attention": (5, 6)}


@pytest.fixture(scope="session")
def package():
    """Skips where onnxruntime-training is not installed."""
    try:
        return version("onnxruntime-training-cpu")
    except PackageNotFoundError:
        pytest.skip("needs onnxruntime-training-cpu, in an environment of its own")


@pytest.fixture
def net(make_proto, rng):
    """``net(name)`` -> model with random weights."""

    def make(name, **options):
        text, shapes = SHAPES[name]
        weights = {k: (rng.standard_normal(shape) / 2).astype(np.float32) for k, shape in shapes.items()}
        return make_proto(text, {**weights, **FIXED.get(name, {})}, **options)

    return make


@pytest.fixture
def data(rng):
    """``data(name, samples)`` -> inputs and labels."""

    def make(name, samples):
        x = rng.standard_normal((samples, *INPUTS[name])).astype(np.float32)
        return {"x": x, "labels": rng.integers(0, 4, samples)}

    return make
