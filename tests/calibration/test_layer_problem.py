"""A layer as a least-squares problem, and its answer as initializers, against lstsq."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.calibration.layer_problem import LayerProblem
from obs_onnx.calibration.layer_weights import LayerWeights, bias_of, stored
from obs_onnx.calibration.second_moments import Moments
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.layer import Layer


def posed(
    make_model, text: str, rng, inputs: int = 5, outputs: int = 3
) -> tuple[ir.Model, Layer, np.ndarray]:
    tensors = {"w": rng.standard_normal((inputs, outputs)), "b": rng.standard_normal(outputs)}
    used = {name: array.astype(np.float32) for name, array in tensors.items() if f" {name}" in text}
    model = canonicalize(make_model(f"g (float[N,5] x) => (float[N,3] y) {{ {text} }}", used))
    (layer,), _ = find_layers(model)
    return model, layer, rng.standard_normal((60, inputs)) + 1


@pytest.mark.parametrize(
    ("text", "scale"),
    [
        ("y = Gemm <alpha = 0.5, beta = 2.0> (x, w, b)", 2.0),
        ("h = MatMul(x, w)  y = Add(h, b)", 1.0),
    ],
)
def test_a_pruned_weight_gets_the_bias_that_keeps_the_mean(make_model, rng, text: str, scale: float) -> None:
    model, layer, x = posed(make_model, text, rng)
    t = rng.standard_normal((60, 3)) + x @ rng.standard_normal((5, 3))
    moments = Moments(layer.layout.goi, targeted=True)
    moments.update(x, layer.uses[0].geometry, t)
    problem = LayerProblem(LayerWeights.of(model, layer), moments, damping=0.0)
    best, *_ = np.linalg.lstsq(np.hstack([x, np.ones((60, 1))]), t, rcond=None)
    np.testing.assert_allclose(problem.problem.optimum[0], best[:-1].T, rtol=1e-5, atol=1e-7)
    found = problem.tensors(problem.problem.optimum)
    assert set(found) == {"w", "b"}
    np.testing.assert_allclose(layer.layout.to_matrix(found["w"])[0], best[:-1].T, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found["b"] * scale, best[-1], rtol=1e-4, atol=1e-6)
    halved = problem.w_GOI * (np.arange(5) % 2)
    bias = problem.tensors(halved)["b"] * scale
    np.testing.assert_allclose((x @ halved[0].T + bias).mean(0), t.mean(0), rtol=1e-6)


def test_without_a_bias_of_its_own_the_moments_are_raw(make_model, rng) -> None:
    model, layer, x = posed(make_model, "y = MatMul(x, w)", rng)
    t = x @ rng.standard_normal((5, 3)) + 4
    moments = Moments(layer.layout.goi, targeted=True)
    moments.update(x, layer.uses[0].geometry, t)
    problem = LayerProblem(LayerWeights.of(model, layer), moments, damping=0.0)
    best, *_ = np.linalg.lstsq(x, t, rcond=None)
    np.testing.assert_allclose(problem.problem.optimum[0], best.T, rtol=1e-5, atol=1e-7)
    assert set(problem.tensors(problem.problem.optimum)) == {"w"}


@pytest.mark.parametrize(
    ("text", "bias"),
    [
        ("y = Gemm(x, w, b)", "b"),
        ("y = Gemm <beta = 0.0> (x, w, b)", None),
        ("y = MatMul(x, w)", None),
        ("h = MatMul(x, w)  y = Add(h, b)", "b"),
    ],
)
def test_a_bias_that_can_move_with_the_weights(make_model, rng, text: str, bias: str | None) -> None:
    model, layer, _ = posed(make_model, text, rng)
    assert bias_of(layer) == bias
    assert stored(model, "w").shape == (5, 3)


def test_a_weight_of_several_uses_keeps_their_biases(make_model, rng) -> None:
    weights = {"w": rng.standard_normal((4, 4)), "b": np.ones(4), "c": np.ones(4)}
    model = canonicalize(
        make_model(
            "g (float[N,4] x) => (float[N,4] y) { a = Gemm(x, w, b)  y = Gemm(a, w, c) }",
            {name: array.astype(np.float32) for name, array in weights.items()},
        )
    )
    (layer,), _ = find_layers(model)
    assert bias_of(layer) is None
