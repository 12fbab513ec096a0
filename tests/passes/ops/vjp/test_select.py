"""Derivatives of operators that pick elements."""

from __future__ import annotations

import numpy as np


def test_top_k_scatters_back(gradient_of, rng):
    x = rng.permutation(12).reshape(3, 4).astype(np.float32)
    text = """g (float[3, 4] x) => (float loss) {
        y, i = TopK <axis = 1> (x, two)  s = Mul(y, y)  loss = ReduceSum <keepdims = 0> (s)
    }"""
    found = gradient_of(text, {"two": np.array([2])}, ["x"], {"x": x})
    np.testing.assert_array_equal(found["x.grad"], np.where(x >= np.sort(x, 1)[:, 2:3], 2 * x, 0))
