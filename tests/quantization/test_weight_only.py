"""Weights in integers of 8 and of 4 bits, as onnxruntime reads them."""

from __future__ import annotations

from collections.abc import Callable

import nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from obs_onnx.data.open_source import open_source
from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import OptionError, VerificationError
from obs_onnx.quantization.calibration import Calibration
from obs_onnx.quantization.rounded_layers import nearest_layers
from obs_onnx.quantization.weight_only import Blocks, EightBits, Form, quantize_weights
from obs_onnx.runtimes import open_runtime

RUNTIME = open_runtime("onnxruntime", 1)


def outputs(model: ir.Model, feed: dict[str, np.ndarray]) -> np.ndarray:
    return RUNTIME.session(serialize(model)).run(feed)["y"]


@pytest.fixture
def products(make_model: Callable[..., ir.Model]) -> ir.Model:
    """Products of every form: with and without bias, transposed, scaled, of odd and of few inputs."""
    rng = np.random.default_rng(0)
    shapes = {"a": (70, 33), "b": (20, 33), "d": (20, 24), "e": (24, 24), "f": (24,), "g": (3, 24)}
    model = make_model(
        "g (float[N,70] x, float[N,3] z) => (float[N,24] y) { p = MatMul(x, a)"
        " q = Gemm <transB = 1, alpha = 0.5> (p, b, c) r = Gemm(q, d) s = MatMul(r, e) t = Add(s, f)"
        " u = MatMul(z, g) y = Add(t, u) }",
        {
            "c": rng.normal(size=20).astype(np.float32),
            **{name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()},
        },
    )
    return canonicalize(model)


FEED = {"x": nets.data(0, 40, 70), "z": nets.data(1, 40, 3)}


@pytest.mark.parametrize("form", [EightBits(), Blocks(16), Blocks(32), Blocks(128)], ids=repr)
def test_the_runtime_computes_with_the_weights_that_were_meant(products: ir.Model, form: Form) -> None:
    rounded = nearest_layers(products, form.forms(products))
    written = form.write(rounded)
    expected = outputs(rounded.model, FEED)
    # onnxruntime itself rounds the inputs of products with weights behind DequantizeLinear to 8 bits
    least = 1e-2 if isinstance(form, EightBits) else 1e-5
    assert np.linalg.norm(outputs(written, FEED) - expected) < least * np.linalg.norm(expected)
    for one in rounded.layers.values():
        np.testing.assert_array_equal(form.read(written, one)[0], one.integers)
        assert one.layer.name not in written.graph.initializers
    assert [value.name for value in written.graph.outputs] == ["y"]
    if isinstance(form, EightBits):
        assert set(rounded.layers) == {"a", "b", "d", "e", "g"}
        onnx.checker.check_model(ir.to_proto(written), full_check=True)
    else:
        assert set(rounded.layers) >= {"a", "b"}
        assert "g" not in rounded.layers  # blocks would be larger
    assert len(serialize(written)) < 0.6 * len(serialize(products))


@pytest.mark.parametrize("form", [EightBits(), Blocks(16)], ids=repr)
def test_less_error_than_nearest_rounding_and_notes(products: ir.Model, form: Form) -> None:
    rng = np.random.default_rng(2)
    mix = rng.normal(size=(70, 70)).astype(np.float32)
    feed = {"x": nets.data(3, 600, 70) @ mix, "z": nets.data(4, 600, 3)}
    source = open_source(feed, RUNTIME.session(serialize(products)).inputs)
    made = quantize_weights(products, form, Calibration(RUNTIME, *source.split(0.125, 0)))
    nearest = form.write(nearest_layers(products, form.forms(products)))
    reference = outputs(products, feed)
    errors = [np.linalg.norm(outputs(one, feed) - reference) for one in (made.model, nearest)]
    assert errors[0] < 0.8 * errors[1]
    assert "integers by error feedback" in made.notes[0]
    assert (len(made.notes) > 1) == isinstance(form, Blocks)
    if len(made.notes) > 1:
        assert "g" in made.notes[-1]
        assert "stays in float" in made.notes[-1] or "stay in float" in made.notes[-1]


def test_integers_that_are_others_are_found(products: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    form = EightBits()
    source = open_source(FEED, RUNTIME.session(serialize(products)).inputs)
    monkeypatch.setattr(EightBits, "read", lambda _, __, one: (one.integers + 1, np.zeros(1, np.int64)))
    with pytest.raises(VerificationError, match="are others"):
        quantize_weights(products, form, Calibration(RUNTIME, *source.split(0.125, 0)))


def test_grouped_transposed_convolutions_have_one_scale(make_model: Callable[..., ir.Model]) -> None:
    model = make_model(
        "g (float[N,4,5,5] x) => (float[N,6,5,5] y)"
        " { y = ConvTranspose <group = 2, kernel_shape = [1, 1]> (x, t) }",
        {"t": np.random.default_rng(0).normal(size=(4, 3, 1, 1)).astype(np.float32)},
    )
    rounded = nearest_layers(model, EightBits().forms(model))
    feed = {"x": nets.data(0, 2, 4, 5, 5)}
    expected = outputs(rounded.model, feed)
    np.testing.assert_allclose(outputs(EightBits().write(rounded), feed), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("opset", "scales"), [(11, 1), (13, 6)])
def test_old_opsets_have_one_scale(make_model: Callable[..., ir.Model], opset: int, scales: int) -> None:
    model = make_model(
        "g (float[N,4] x) => (float[N,6] y) { y = MatMul(x, w) }",
        {"w": np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)},
        opset=opset,
        ir_version=6,
    )
    written = EightBits().write(nearest_layers(model, EightBits().forms(model)))
    assert written.graph.initializers["w_scale"].const_value.size == scales
    onnx.checker.check_model(ir.to_proto(written), full_check=True)


def test_what_cannot_be_quantized(make_model: Callable[..., ir.Model]) -> None:
    weight = {"w": np.ones((6, 4, 1, 1), np.float32)}
    model = make_model("g (float[N,4,5,5] x) => (float[N,6,5,5] y) { y = Conv(x, w) }", weight)
    with pytest.raises(OptionError, match="no MatMul or Gemm"):
        Blocks().forms(model)
    left = {"w": np.ones((24, 64), np.float32)}
    with pytest.raises(OptionError, match="on its right"):
        Blocks().forms(make_model("g (float[N,64,8] x) => (float[N,24,8] y) { y = MatMul(w, x) }", left))
    old = make_model(
        "g (float[N,4,5,5] x) => (float[N,6,5,5] y) { y = Conv(x, w) }", weight, opset=9, ir_version=4
    )
    with pytest.raises(OptionError, match="needs opset 10"):
        EightBits().forms(old)
