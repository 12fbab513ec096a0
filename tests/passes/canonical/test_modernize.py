"""Models of old opsets, converted where gradients need it."""

from __future__ import annotations

import numpy as np

from obs_onnx.passes.autodiff.gradient import Gradient
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.canonical.modernize import modernize


def test_old_opsets_are_converted(make_model, run_model, rng):
    text = """g (float[2, 3] x) => (float loss) {
        s = Slice <starts = [0], ends = [1], axes = [0]> (x)
        t = Mul(s, s)
        loss = ReduceSum <keepdims = 0> (t)
    }"""
    model = modernize(canonicalize(make_model(text, opset=9)))
    Gradient("loss", ["x"]).call(model)
    x = rng.standard_normal((2, 3)).astype(np.float32)
    np.testing.assert_allclose(run_model(model, {"x": x})["x.grad"], [2 * x[0], np.zeros(3)], rtol=1e-6)
