"""A linear model with a scalar output, and its weights."""

from __future__ import annotations

import numpy as np
import pytest

LINEAR = """g (float[N, 4] x) => (float[N, 3] z, float total) {
    z = Gemm(x, w, b)
    total = ReduceSum <keepdims = 0> (z)
}"""


@pytest.fixture
def linear(make_proto, rng):
    w, b = rng.standard_normal((4, 3)).astype(np.float32), rng.standard_normal(3).astype(np.float32)
    return make_proto(LINEAR, {"w": w, "b": b}), w.astype(float), b.astype(float)
