"""Products with the Gauss-Newton matrix against Jacobians by finite differences."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from nets import run_proto
from scipy.special import softmax

from obs_onnx.passes.autodiff.gauss_newton import curvature_graphs
from obs_onnx.passes.autodiff.training_step import Term
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import GradientError

TEXT = """g (double[N,3] x) => (double[N,4] z) {
    a = MatMul(x, w)  h = Tanh(a)  z = Gemm(h, v, b)  d = MatMul(x, unused)
}"""
SHAPES = {"w": (3, 5), "v": (5, 4), "b": (4,), "unused": (3, 3)}
NAMES = ["w", "v", "b"]
STEP = 1e-6


@pytest.fixture
def weights(rng) -> dict[str, np.ndarray]:
    return {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}


@pytest.fixture
def model(make_model, weights) -> ir.Model:
    return canonicalize(make_model(TEXT, weights))


def hidden(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    return np.tanh(x @ weights["w"])


def scores(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    return hidden(weights, x) @ weights["v"] + weights["b"]


def moved(f, weights: dict[str, np.ndarray], v: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Directional derivative of outputs along ``v``."""
    ends = [f({**weights, **{n: weights[n] + s * STEP * v[n] for n in NAMES}}, x) for s in (1, -1)]
    return (ends[0] - ends[1]) / (2 * STEP)


def product(graphs, weights, v, feed) -> dict[str, np.ndarray]:
    proto = ir.to_proto(graphs.product)
    onnx.checker.check_model(proto, full_check=True)
    fed = {**feed, **{n: weights[n] for n in NAMES}, **{graphs.vectors[n]: v[n] for n in NAMES}}
    found = run_proto(proto, {value.name: fed[value.name] for value in proto.graph.input})
    return {name: found[graphs.products[name]] for name in NAMES}


def test_products_are_those_of_jacobians_and_the_losses_hessians(model, weights, rng) -> None:
    """<u, G v> for a mean square error of the hidden layer and a divergence of the scores behind it."""
    x = rng.standard_normal((6, 3))
    feed = {"x": x, "teacher": rng.standard_normal((6, 4)), "hidden": rng.standard_normal((6, 5))}
    graphs = curvature_graphs(model, [Term("kl", "z", "teacher"), Term("mse", "h", "hidden", 0.3)], NAMES)
    u, v = ({n: rng.standard_normal(SHAPES[n]) for n in NAMES} for _ in range(2))
    p = softmax(scores(weights, x), axis=1)
    du, dv = moved(scores, weights, u, x), moved(scores, weights, v, x)
    bent = p * (dv - (p * dv).sum(1, keepdims=True))
    wanted = (du * bent).sum() / 6
    wanted += 0.3 * 2 * np.mean(moved(hidden, weights, u, x) * moved(hidden, weights, v, x))
    found = product(graphs, weights, v, feed)
    assert sum(np.vdot(u[n], found[n]) for n in NAMES) == pytest.approx(wanted, rel=1e-6)
    assert sum(np.vdot(v[n], found[n]) for n in NAMES) > 0


def test_the_gradient_is_that_of_the_loss(model, weights, rng) -> None:
    x, t = rng.standard_normal((6, 3)), rng.standard_normal((6, 4))
    graphs = curvature_graphs(model, [Term("mse", "z", "labels", 2.0)], NAMES)
    proto = ir.to_proto(graphs.gradient)
    onnx.checker.check_model(proto, full_check=True)
    found = run_proto(proto, {"x": x, "labels": t, **{n: weights[n] for n in NAMES}})
    off = scores(weights, x) - t
    assert found[graphs.loss] == pytest.approx(2 * np.mean(off**2))
    v = {n: rng.standard_normal(SHAPES[n]) for n in NAMES}
    slope = np.vdot(4 * off / off.size, moved(scores, weights, v, x))
    assert sum(np.vdot(v[n], found[graphs.gradients[n]]) for n in NAMES) == pytest.approx(slope, rel=1e-6)


def test_a_weight_without_influence_is_refused(model) -> None:
    with pytest.raises(GradientError, match="'unused'"):
        curvature_graphs(model, [Term("mse", "z", "labels")], ["w", "unused"])
