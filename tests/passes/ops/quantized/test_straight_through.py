"""Gradients through rounding, by hand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from nets import run_proto

from obs_onnx.passes.autodiff.gradient import Gradient
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import GradientError
from obs_onnx.passes.ops.quantized.straight_through import integer_range

X = np.array([[-9.0, -0.3, 0.26, 0.9, 9.0, 0.0]], np.float32)
R = np.array([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]], np.float32)
PAIR = "q = QuantizeLinear(x, s, z)  {more}  y = DequantizeLinear({last}, s, z)  p = Mul(y, r)"


def gradients(make_model, text, arrays, wrt=("x",), opset=13):
    model = canonicalize(make_model(f"g (float[1, 6] x) => (float loss) {{ {text} }}", arrays, opset=opset))
    Gradient("loss", list(wrt)).call(model)
    found = run_proto(ir.to_proto(model), {"x": X})
    return [found[f"{name}.grad"] for name in wrt]


def loss(pair):
    return f"{pair}  loss = ReduceSum <keepdims = 0> (p)"


@pytest.mark.parametrize(("kind", "zero"), [(np.uint8, 10), (np.int8, -3)])
def test_one_inside_the_range_and_zero_outside(make_model, kind, zero):
    arrays = {"s": np.float32(0.02), "z": np.asarray(zero, kind), "r": R}
    (gx,) = gradients(make_model, loss(PAIR.format(more="", last="q")), arrays)
    q = np.rint(X / np.float32(0.02)) + zero
    limits = np.iinfo(kind)
    inside = (q >= limits.min) & (q <= limits.max)
    assert 0 < inside.sum() < X.size
    np.testing.assert_allclose(gx, R * inside, rtol=1e-6)


def test_a_scale_learns_as_esser_et_al_have_it(make_model):
    s = np.float32(0.1)
    arrays = {"s": s, "z": np.asarray(0, np.int8), "r": R}
    gs, _ = gradients(make_model, loss(PAIR.format(more="", last="q")), arrays, ("s", "x"))
    v = X / s
    slope = np.where(np.abs(v) < 127, np.rint(v) - v, np.clip(v, -128, 127))
    np.testing.assert_allclose(gs, (R * slope).sum(), rtol=1e-5)
    wide = {"s": np.float32(0.05), "z": np.asarray(0, np.int8), "r": R}
    gs, _ = gradients(make_model, loss(PAIR.format(more="", last="q")), wide, ("s", "x"))
    v = X / np.float32(0.05)
    slope = np.where(np.abs(v) < 127, np.rint(v) - v, np.clip(v, -128, 127))
    np.testing.assert_allclose(gs, (R * slope).sum(), rtol=1e-5)


def test_scales_along_an_axis_and_views_of_integers(make_model):
    s = np.array([0.02, 0.02, 0.02, 0.001, 0.2, 1.0], np.float32)
    arrays = {"s": s, "z": np.zeros(6, np.int8), "r": R}
    (gx,) = gradients(make_model, loss(PAIR.format(more="", last="q")), arrays)
    np.testing.assert_allclose(gx, R * (np.abs(np.rint(X / s)) <= 127), rtol=1e-6)
    arrays = {"s": np.float32(0.02), "z": np.asarray(0, np.int8), "r": R, "shape": np.array([1, 6])}
    (gx,) = gradients(make_model, loss(PAIR.format(more="v = Reshape(q, shape)", last="v")), arrays)
    np.testing.assert_allclose(gx, R * (np.abs(np.rint(X / 0.02)) <= 127), rtol=1e-6)


def test_ranges_taken_at_run_time_hold_everything(make_model):
    text = "q, s, z = DynamicQuantizeLinear(x)  y = DequantizeLinear(q, s, z)  p = Mul(y, r)"
    (gx,) = gradients(make_model, loss(text), {"r": R})
    np.testing.assert_allclose(gx, R, rtol=1e-6)


def test_what_computes_on_integers_is_an_error_never_a_zero(make_model):
    arrays = {"s": np.float32(0.02), "z": np.asarray(0, np.int8), "r": R}
    text = "q = QuantizeLinear(x, s, z)  c = Cast <to = 1> (q)  p = Mul(c, r)"
    with pytest.raises(GradientError, match="was rounded, and Cast is known on numbers alone"):
        gradients(make_model, loss(text), arrays)


def test_ranges_of_types():
    assert integer_range(ir.DataType.INT8) == (-128, 127)
    assert integer_range(ir.DataType.UINT4) == (0, 15)
    assert integer_range(ir.DataType.FLOAT8E4M3FN) is None
    assert integer_range(None) is None
