"""Biases that belong to one node each."""

from __future__ import annotations

import numpy as np
import pytest
from canonical_forms import value
from onnx import numpy_helper

from obs_onnx.passes import find_layers
from obs_onnx.passes.canonical.own_constants import ShareConstants


@pytest.fixture
def shared(make_proto, rng):
    """Three layers with one bias."""
    return make_proto(
        """g (float[N,4] x) => (float[N,4] y, float[N,4] z) {
            a = Gemm(x, u, b)  m = MatMul(a, v)  y = Add(m, b)  z = Gemm(y, w, b)
        }""",
        {name: rng.normal(size=(4, 4)).astype(np.float32) for name in "uvw"}
        | {"b": rng.normal(size=4).astype(np.float32)},
    )


class TestBiases:
    def test_shared_bias_is_copied(self, shared, check, rng):
        model = check(shared, {"x": rng.normal(size=(2, 4)).astype(np.float32)})
        biases = [layer.uses[0].bias for layer in find_layers(model)[0]]
        assert len(set(biases)) == 3
        assert "b" in biases
        for name in biases:
            np.testing.assert_array_equal(
                value(model, name), numpy_helper.to_array(shared.graph.initializer[3])
            )

    def test_single_number_for_all_outputs(self, make_proto, check, rng):
        proto = make_proto(
            "g (float[N,4] x) => (float[N,3] y) { y = Gemm <beta = 2.0> (x, w, c) }",
            {"w": rng.normal(size=(4, 3)).astype(np.float32), "c": np.array([1.5], np.float32)},
        )
        model = check(proto, {"x": rng.normal(size=(2, 4)).astype(np.float32)})
        (layer,), _ = find_layers(model)
        np.testing.assert_array_equal(value(model, layer.uses[0].bias), [1.5] * 3)


class TestWritten:
    def test_biases_that_still_hold_the_same_are_one_again(self, shared, check, rng):
        model = check(shared, {"x": rng.normal(size=(2, 4)).astype(np.float32)})
        ShareConstants().call(model)
        assert set(model.graph.initializers) == {"u", "v", "w", "b"}
