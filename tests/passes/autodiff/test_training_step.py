"""The graph of a step: what goes in and comes out, masks, terms, and the forward half."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from nets import run_proto

from obs_onnx.passes.autodiff.optimizers import SGD, Adam
from obs_onnx.passes.autodiff.training_step import Term, loss_graph, trained_weights, training_step
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import GradientError

TEXT = """g (float[N,3] x) => (float[N,2] z) {
    a = MatMul(x, w)  h = Relu(a)  z = Gemm(h, v, b)  d = MatMul(x, unused)
}"""
SHAPES = {"w": (3, 4), "v": (4, 2), "b": (2,), "unused": (3, 3)}
TERMS = [Term("mse", "z", "target", 2.0), Term("sum_of_squares", "h", "none", 0.5)]


@pytest.fixture
def weights(rng) -> dict[str, np.ndarray]:
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.fixture
def model(make_model, weights) -> ir.Model:
    return canonicalize(make_model(TEXT, weights))


@pytest.fixture
def feed(rng) -> dict[str, np.ndarray]:
    return {
        "x": rng.standard_normal((5, 3)).astype(np.float32),
        "target": rng.standard_normal((5, 2)).astype("f"),
    }


def gradients(weights, feed) -> tuple[float, dict[str, np.ndarray]]:
    """Of twice the mean square error plus a quarter of the squares of the hidden layer, by hand."""
    w, v, b = (weights[name].astype(float) for name in "wvb")
    x, t = (feed[name].astype(float) for name in ("x", "target"))
    a = x @ w
    h = np.maximum(a, 0)
    off = h @ v + b - t
    dz = 4 * off / off.size
    dh = (dz @ v.T + 0.5 * h) * (a > 0)
    loss = 2 * np.mean(off**2) + 0.25 * np.sum(h**2)
    return loss, {"w": x.T @ dh, "v": h.T @ dz, "b": dz.sum(0)}


def test_a_step_of_gradient_descent_on_a_weighted_sum(model, weights, feed) -> None:
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    step = training_step(model, TERMS, list("wvb"), SGD(momentum=0.5), shown=["h"])
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    proto = ir.to_proto(step.model)
    onnx.checker.check_model(proto, full_check=True)
    slots = {slot: np.full_like(weights[name], 0.25) for slot, name in step.slots.items()}
    inputs = {
        **feed,
        **{name: weights[name] for name in "wvb"},
        **slots,
        step.scalars["rate"]: np.array(0.1, np.float32),
    }
    found = run_proto(proto, inputs)
    loss, grads = gradients(weights, feed)
    assert found.pop(step.loss) == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(found.pop("h"), np.maximum(feed["x"] @ weights["w"], 0), rtol=1e-6)
    assert set(found) == set(step.carried)
    assert not step.held
    after = {step.carried[name]: array for name, array in found.items()}
    for slot, name in step.slots.items():
        moved = 0.5 * 0.25 + grads[name]
        np.testing.assert_allclose(after[slot], moved, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(after[name], weights[name] - 0.1 * moved, rtol=1e-4, atol=1e-6)


def test_what_a_mask_excludes_stays_the_number_it_is(model, weights, feed) -> None:
    mask = np.arange(12).reshape(3, 4) % 3 > 0
    step = training_step(model, TERMS, list("wvb"), Adam(), masks={"w": mask})
    slots = {slot: np.zeros_like(weights[name]) for slot, name in step.slots.items()}
    scalars = {step.scalars[name]: np.array(n, np.float32) for name, n in Adam().numbers(1, 0.1).items()}
    found = run_proto(ir.to_proto(step.model), {**feed, **{n: weights[n] for n in "wvb"}, **slots, **scalars})
    after = {step.carried[name]: array for name, array in found.items() if name in step.carried}
    np.testing.assert_array_equal(after["w"][~mask], weights["w"][~mask])
    moved = gradients(weights, feed)[1]["w"] != 0
    assert (after["w"] != weights["w"])[mask & moved].all()
    for slot, name in step.slots.items():
        if name == "w":
            assert not after[slot][~mask].any()


def test_the_forward_half_has_the_same_loss_and_reads_zeros_under_a_mask(model, weights, feed) -> None:
    graph, name = loss_graph(model, TERMS, list("wvb"), shown=["h"])
    inputs = {**feed, **{key: weights[key] for key in "wvb"}}
    found = run_proto(ir.to_proto(graph), inputs)
    assert set(found) == {name, "h"}
    assert found[name] == pytest.approx(gradients(weights, feed)[0], rel=1e-5)
    mask = np.arange(12).reshape(3, 4) % 3 > 0
    graph, name = loss_graph(model, TERMS, masks={"w": mask})
    found = run_proto(ir.to_proto(graph), feed)
    masked = {**weights, "w": weights["w"] * mask}
    assert found[name] == pytest.approx(gradients(masked, feed)[0], rel=1e-5)


def test_weights_without_influence_are_not_trained(model) -> None:
    assert set(trained_weights(model, TERMS)) == {"w", "v", "b"}
    assert set(trained_weights(model, TERMS[1:])) == {"w"}
    with pytest.raises(GradientError, match="'unused'"):
        training_step(model, TERMS, ["w", "unused"], SGD())
