"""Loss, gradient and Gauss-Newton products as functions of the weights on their support."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.data.open_source import open_source
from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.graph.set_weights import STORED
from obs_onnx.reconstruction.curvature import Curvature, Support
from obs_onnx.runtimes import calibration_runtime
from obs_onnx.training.objective import choose_objective

TEXT = "g (float[N,6] x) => (float[N,3] y) { a = Gemm(x, w1, b1) h = Tanh(a) y = Gemm(h, w2, b2) }"
SHAPES = {"w1": (6, 8), "b1": (8,), "w2": (8, 3), "b2": (3,)}
STEP = 1e-2


@pytest.fixture
def weights(rng) -> dict[str, np.ndarray]:
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.fixture
def masks(rng) -> dict[str, np.ndarray]:
    return {"w1": rng.random(SHAPES["w1"]) < 0.5}


def test_a_vector_holds_what_may_change(weights, masks, rng) -> None:
    support = Support(weights, masks, {})
    vector = support.vector(weights)
    assert support.size == vector.size == masks["w1"].sum() + 8 + 24 + 3
    found = support.arrays(vector)
    for name, array in weights.items():
        np.testing.assert_array_equal(found[name], array * masks.get(name, True))
        assert found[name].dtype == array.dtype
    moved = vector + rng.standard_normal(vector.size)
    np.testing.assert_allclose(support.vector(support.arrays(moved)), moved, rtol=1e-6)
    assert not support.arrays(moved)["w1"][~masks["w1"]].any()


def test_weights_are_those_that_can_be_stored(weights, make_model) -> None:
    model = canonicalize(make_model(TEXT, weights))
    model.graph.initializers["w2"].meta[STORED] = ir.DataType.BFLOAT16
    support = Support.of(model, weights, {})
    found = support.weights(support.vector(weights))
    np.testing.assert_array_equal(found["w2"], weights["w2"].astype(ml_dtypes.bfloat16).astype(np.float32))
    np.testing.assert_array_equal(found["w1"], weights["w1"])


@pytest.fixture
def problem(make_model, weights, masks, rng):
    """Curvature of the distance to a model with other weights, its data, and the weights."""
    other = {name: array + rng.standard_normal(array.shape).astype("f") for name, array in weights.items()}
    model, runtime = canonicalize(make_model(TEXT, weights)), calibration_runtime("onnxruntime", 1, ())
    teacher = runtime.session(serialize(canonicalize(make_model(TEXT, other))))
    x = rng.standard_normal((48, 6)).astype(np.float32)
    data = open_source({"x": x}, teacher.inputs, batch_size=20)
    objective = choose_objective(model, teacher.run({"x": x}), labels=False, teacher=True, task="regression")
    support = Support(weights, masks, {})
    curvature = Curvature(runtime, model, objective, teacher, support, {"x": x})
    return curvature, data, support.vector(weights), lambda v: scores(support.arrays(v), x)


def scores(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    w = {name: array.astype(float) for name, array in weights.items()}
    return np.tanh(x @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"]


def test_the_gradient_is_the_slope_of_the_loss(problem, rng) -> None:
    curvature, data, w, _ = problem
    v = rng.standard_normal(w.size)
    slope = (curvature.loss(w + STEP * v, data) - curvature.loss(w - STEP * v, data)) / (2 * STEP)
    assert np.vdot(curvature.gradient(w, data), v) == pytest.approx(slope, rel=1e-2)


def test_products_are_those_of_the_jacobian(problem, rng) -> None:
    """In the ratio <u G v> / <v G v>, which no factor of the loss changes; batches are of unequal size."""
    curvature, data, w, outputs = problem
    u, v = rng.standard_normal((2, w.size))
    du, dv = ((outputs(w + STEP * d) - outputs(w - STEP * d)) / (2 * STEP) for d in (u, v))
    spread = curvature.product(w, v, data)
    assert np.vdot(v, spread) > 0
    ratio = np.vdot(u, spread) / np.vdot(v, spread)
    assert ratio == pytest.approx(np.vdot(du, dv) / np.vdot(dv, dv), rel=1e-2, abs=1e-3)
    np.testing.assert_allclose(np.vdot(v, curvature.product(w, u, data)), np.vdot(u, spread), rtol=1e-3)
