"""Shapes of what a Loop carries."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from nets import build_model, run_proto

from obs_onnx.passes.autodiff.gradient import Gradient
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.shapes.infer_shapes import InferShapes


def test_carried_shapes_are_found():
    """A Loop's result has an unknown rank for ONNX; a matrix product behind it needs the rank."""
    text = """g (float[N, 3] x, int64 m, float[3, 2] w) => (float loss) {
        a, l = Loop <body = step (int64 t, bool go, h0, k0) => (bool more, h1, k1) {
            more = Identity(go)  h1 = Tanh(h0)  k1 = Concat <axis = 0> (k0, h0)
        }> (m, yes, x, x)
        y = MatMul(a, w)  s = MatMul(l, w)  i = ReduceSum <keepdims = 0> (y)  j = ReduceSum <keepdims = 0> (s)
        loss = Mul(i, j)
    }"""
    model = canonicalize(ir.from_proto(build_model(text, {"yes": np.array(True)})))
    InferShapes().call(model)
    Gradient("loss", ["w"]).call(model)
    a, grown = next(node for node in model.graph if node.op_type == "Loop").outputs
    assert a.shape == ir.Shape(["N", 3])
    assert grown.shape == ir.Shape([None, 3])
    x, w = np.array([[0.1, -0.4, 0.3]], np.float32), np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    found = run_proto(ir.to_proto(model), {"x": x, "m": np.array(2), "w": w})
    rows = [x, np.tanh(x)]
    last, stacked = np.tanh(rows[1]), np.concatenate([x, *rows])
    i, j = (last @ w).sum(), (stacked @ w).sum()
    expected = (j * last.sum(0) + i * stacked.sum(0))[:, None].repeat(2, 1)
    np.testing.assert_allclose(found["w.grad"], expected, rtol=1e-5)
