"""Weights that a graph computes from constants."""

from __future__ import annotations

import numpy as np
from canonical_forms import operators

from obs_onnx.passes import find_layers


class TestWeightExpressions:
    def test_weight_normalization(self, make_proto, check, rng):
        proto = make_proto(
            """g (float[N,3,8] x) => (float[N,4,6] y) {
                n = ReduceL2 <keepdims = 1> (v, axes)  u = Div(v, n)  w = Mul(g, u)  y = Conv(x, w)
            }""",
            {
                "v": rng.normal(size=(4, 3, 3)).astype(np.float32),
                "g": rng.random((4, 1, 1)).astype(np.float32),
                "axes": np.array([1, 2]),
            },
        )
        model = check(proto, {"x": rng.normal(size=(2, 3, 8)).astype(np.float32)})
        assert operators(model) == ["Conv"]
        assert [layer.size for layer in find_layers(model)[0]] == [36]

    def test_zero_bias_made_from_shapes(self, make_proto, check, rng):
        proto = make_proto(
            """g (float[N,3,8] x) => (float[N,8,6] y) {
                s = Shape <start = 0, end = 1> (w)  zero = Constant <value_int = 0> ()  z = CastLike(zero, x)
                b = Expand(z, s)  y = Conv(x, w, b)
            }""",
            {"w": rng.normal(size=(8, 3, 3)).astype(np.float32)},
        )
        model = check(proto, {"x": rng.normal(size=(2, 3, 8)).astype(np.float32)})
        assert operators(model) == ["Conv"]
        (layer,), _ = find_layers(model)
        assert layer.uses[0].bias is not None

    def test_constant_data_is_no_weight(self, make_proto, check, rng):
        proto = make_proto(
            "g (float[N,5] x) => (float[N,5] y) { t = Tanh(table)  p = MatMul(t, w)  y = Add(x, p) }",
            {
                "table": rng.normal(size=(1, 16)).astype(np.float32),
                "w": rng.normal(size=(16, 5)).astype(np.float32),
            },
        )
        model = check(proto, {"x": np.ones((2, 5), np.float32)})
        assert operators(model) == ["Tanh", "MatMul", "Add"]
