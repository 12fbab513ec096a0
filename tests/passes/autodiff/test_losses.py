"""Losses and their gradients, against formulas."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.passes.autodiff.gradient import Gradient
from obs_onnx.passes.autodiff.losses import append_loss
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import GradientError


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("kind", ["cross_entropy", "kl", "logits", "mse", "relative_error", "sum_of_squares"])
def test_losses(make_model, run_model, rng, kind, opset):
    z, t = rng.standard_normal((2, 4, 5, 2)).astype(np.float32)
    model = canonicalize(
        make_model("g (float[N, 5, 2] x) => (float[N, 5, 2] z) { z = Identity(x) }", opset=opset)
    )
    assert append_loss(model, kind) == "loss"
    Gradient("loss", ["x"]).call(model)
    p, q = softmax(t.astype(float)), softmax(z.astype(float))
    labels = rng.integers(0, 5, (4, 2))
    hot = np.moveaxis(np.eye(5)[labels], -1, 1)
    apart = (z - t) - (z - t).mean(1, keepdims=True)
    feeds, loss, grad = {
        "cross_entropy": ({"labels": labels}, -(hot * np.log(q)).sum() / 8, (q - hot) / 8),
        "kl": ({"teacher": t}, (p * np.log(p / q)).sum() / 8, (q - p) / 8),
        "logits": ({"teacher": t}, (apart**2).mean() / 2, apart / 40),
        "mse": ({"labels": t}, ((z - t) ** 2).mean(), 2 * (z - t) / 40),
        "relative_error": ({"labels": t}, ((z - t) ** 2).sum() / (t**2).sum(), 2 * (z - t) / (t**2).sum()),
        "sum_of_squares": ({}, (z**2).sum() / 2, z),
    }[kind]
    found = run_model(model, {"x": z, **feeds})
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(found["x.grad"], grad, rtol=1e-4, atol=1e-6)


def test_a_scalar_of_the_model_is_its_own_loss(make_model):
    model = make_model("g (float x) => (float y) { h = Exp(x) y = Neg(h) }")
    model = canonicalize(model)
    assert append_loss(model, "h") == "h"
    assert [y.name for y in model.graph.outputs] == ["y", "h"]
    with pytest.raises(GradientError, match="cross_entropy, mse"):
        append_loss(model, "hinge")
