"""Integers of a layer as numbers and back: what onnxruntime makes of them is what the layer says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from integer_graphs import FORMS, Form, graph

from obs_onnx.calibration.layer_problem import LayerProblem
from obs_onnx.calibration.layer_weights import LayerWeights, names_of, stored, weight_of
from obs_onnx.calibration.second_moments import Moments
from obs_onnx.calibration.unfold import unfold
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.layer import Layer


def opened(form: Form) -> tuple[ir.Model, Layer]:
    model = canonicalize(ir.from_proto(graph(form)))
    layers, frozen = find_layers(model)
    assert not frozen
    assert len(layers) == 1
    return model, layers[0]


def outputs(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Of the graph as it is: what runtimes fuse may round activations, too."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(proto.SerializeToString(), options).run(None, {"x": x})[0]


def data(form: Form, samples: int = 40) -> np.ndarray:
    shape = (samples, 64, 5, 5) if form.op == "Conv" else (samples, 64)
    rng = np.random.default_rng(1)
    mixing = rng.standard_normal((64, 64)) @ np.diag(np.linspace(0.1, 1, 64) ** 2)
    return np.einsum("ni...,ij->nj...", rng.standard_normal(shape), mixing).astype(np.float32)


def product(model: ir.Model, layer: Layer, w_GOI: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What a layer has to give with a weight, from its definition."""
    use = layer.uses[0]
    x_GNI = unfold(x, use.geometry)
    y = np.einsum("gni,goi->ngo", x_GNI, w_GOI).reshape(x_GNI.shape[1], -1)
    if use.bias is not None:
        y = y + stored(model, use.bias)
    if x.ndim > 2:
        return y.reshape(len(x), 3, 3, -1).transpose(0, 3, 1, 2)
    return y


@pytest.mark.parametrize("form", FORMS, ids=str)
class TestForms:
    def test_the_numbers_are_those_of_the_runtime(self, form: Form) -> None:
        model, layer = opened(form)
        x = data(form)
        expected = outputs(graph(form), x)
        np.testing.assert_allclose(outputs(ir.to_proto(model), x), expected, rtol=1e-4, atol=1e-4)
        found = product(model, layer, weight_of(model, layer), x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())

    def test_what_stays_is_the_same_integers(self, form: Form) -> None:
        model, layer = opened(form)
        held = LayerWeights.of(model, layer)
        written = held.tensors(held.w_GOI)
        assert set(written) == set(layer.integers.names)
        for name, array in written.items():
            was = stored(model, name)
            assert array.dtype == was.dtype
            np.testing.assert_array_equal(array.astype(np.float64), was.astype(np.float64))

    def test_another_weight_goes_back_into_the_same_form(self, form: Form) -> None:
        model, layer = opened(form)
        held = LayerWeights.of(model, layer)
        rng = np.random.default_rng(2)
        w_GOI = held.w_GOI * rng.uniform(0.8, 1.2, held.w_GOI.shape)
        w_GOI[:, :, 5:9] = 0.0
        new = SetWeights(held.tensors(w_GOI))(model.clone()).model
        kept = weight_of(new, layer)
        assert (kept[:, :, 5:9] == 0).all()
        bits = {"4": 4, "8": 8, "6": 16}[form.kind[-1]]
        limit = (
            (2 if form.axis is None or form.op == "Gemm" else 1) * 2.0 ** (1 - bits) * np.linalg.norm(w_GOI)
        )
        assert np.linalg.norm(kept - w_GOI) < limit
        for name in names_of(layer):
            assert stored(new, name).dtype == stored(model, name).dtype
            assert stored(new, name).shape == stored(model, name).shape
        x = data(form)
        expected = product(new, layer, kept, x)
        found = outputs(ir.to_proto(new), x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())

    def test_feedback_beats_nearest_rounding(self, form: Form) -> None:
        model, layer = opened(form)
        moments = Moments(layer.layout.goi)
        moments.update(data(form, 400), layer.uses[0].geometry)
        held = LayerWeights.of(model, layer)
        posed = LayerProblem(held, moments, 1e-2)
        rng = np.random.default_rng(3)
        w_GOI = posed.w_GOI * rng.uniform(0.7, 1.3, posed.w_GOI.shape)
        wanted = LayerProblem.__new__(LayerProblem)
        wanted.__dict__.update(posed.__dict__)
        wanted.problem = replace(posed.problem, b=w_GOI @ posed.problem.a, w=w_GOI, constant=None)
        nearest, fed = held.tensors(w_GOI), wanted.tensors(w_GOI)

        def error(tensors) -> float:
            wrong = weight_of(SetWeights(tensors)(model.clone()).model, layer) - w_GOI
            return float(np.einsum("goi,goi->", wrong @ posed.problem.a, wrong))

        assert error(fed) < 0.8 * error(nearest)


def test_the_scale_of_the_bias_is_that_of_input_and_weight(make_model) -> None:
    text = """g (float[N,4] x) => (float[N,6] y) {
    a = QuantizeLinear(x, sx, zx)  b = DequantizeLinear(a, sx, zx)
    w = DequantizeLinear<axis = 1>(q, s)  c = DequantizeLinear<axis = 0>(qb, sb)  y = Gemm(b, w, c) }"""
    rng = np.random.default_rng(0)
    sx, s = np.float32(0.02), rng.uniform(0.01, 0.02, 6).astype(np.float32)
    q = rng.integers(-127, 128, (4, 6)).astype(np.int8)
    weights = {
        "q": q,
        "s": s,
        "sx": sx,
        "zx": np.uint8(3),
        "qb": np.arange(6, dtype=np.int32) * 999,
        "sb": s * sx,
    }
    model = make_model(text, weights)
    (layer,) = find_layers(model)[0]
    held = LayerWeights.of(model, layer)
    bias = held.bias + 0.5
    changed = SetWeights(held.tensors(2.5 * held.w_GOI, bias))(model).model
    np.testing.assert_allclose(stored(changed, "sb"), stored(changed, "s") * sx, rtol=1e-6)
    assert (stored(changed, "s") > 1.2 * s).all()
    np.testing.assert_allclose(LayerWeights.of(changed, layer).bias, bias, atol=sx * 0.06)
    assert stored(changed, "qb").dtype == np.int32


def test_a_bit_that_integers_do_not_use_stays_unused(make_model) -> None:
    q = np.random.default_rng(0).integers(-64, 65, (8, 6)).astype(np.int8)
    text = "g (float[N,8] x) => (float[N,6] y) { w = DequantizeLinear(q, s)  y = MatMul(x, w) }"
    model = make_model(text, {"q": q, "s": np.float32(0.1)})
    (layer,) = find_layers(model)[0]
    held = LayerWeights.of(model, layer)
    written = held.tensors(1.7 * held.w_GOI)
    assert 40 < np.abs(written["q"].astype(int)).max() <= 64
