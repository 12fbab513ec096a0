"""Views of scaled integers become views of the integers, and every weight has scales of its own."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from integer_graphs import FORMS, graph
from nets import build_model

from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.canonical.finished import finished
from obs_onnx.passes.layers.find_layers import find_layers


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("form", [form for form in FORMS if form.behind], ids=str)
def test_no_view_stands_between(form) -> None:
    model = canonicalize(ir.from_proto(graph(form)))
    assert "Transpose" not in operators(model)
    assert "Reshape" not in operators(model)
    assert len(find_layers(model)[0]) == 1


def same(text: str, weights: dict, width: int = 6) -> ir.Model:
    """The canonical form, which gives what the model gives."""
    proto = build_model(f"g (float[N,4] x) => (float[N,{width}] y) {{ {text} }}", weights)
    original = ir.from_proto(proto)
    model = finished(canonicalize(original), original)
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    options = ort.SessionOptions()  # what is fused may round activations, too
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    ys = [
        ort.InferenceSession(one.SerializeToString(), options).run(None, {"x": x})[0]
        for one in (proto, ir.to_proto(model))
    ]
    np.testing.assert_allclose(ys[0], ys[1], rtol=1e-5, atol=1e-5)
    return model


Q = np.random.default_rng(1).integers(-99, 99, (6, 4)).astype(np.int8)
S = np.linspace(0.1, 0.6, 6, dtype=np.float32)


def test_two_views_in_a_row() -> None:
    text = """d = DequantizeLinear<axis = 0>(q, s)  r = Reshape(d, n)  w = Transpose<perm = [1, 0]>(r)
    y = MatMul(x, w)"""
    model = same(text, {"q": Q.reshape(6, 2, 2), "s": S, "n": np.array([6, 4])})
    assert operators(model) == ["DequantizeLinear", "MatMul"]


def test_a_view_that_splits_the_axis_of_the_scales_stays() -> None:
    text = "d = DequantizeLinear<axis = 0>(q, s)  w = Reshape(d, n)  y = MatMul(x, w)"
    model = same(text, {"q": Q.reshape(12, 2), "s": np.repeat(S, 2), "n": np.array([4, 6])})
    assert "Reshape" in operators(model)


def test_scales_for_rows_of_cast_and_mul_follow() -> None:
    text = "f = Cast<to = 1>(q)  m = Mul(f, s)  w = Transpose<perm = [1, 0]>(m)  y = MatMul(x, w)"
    model = same(text, {"q": Q, "s": S[:, None]})
    assert operators(model) == ["Cast", "Mul", "MatMul"]
    assert tuple(model.graph.initializers["s"].shape) == (1, 6)


def test_a_shared_zero_point_is_shared_again_when_it_is_written() -> None:
    text = """w = DequantizeLinear<axis = 1>(q, s, z)  h = MatMul(x, w)
    v = DequantizeLinear<axis = 1>(p, t, z)  y = MatMul(h, v)"""
    weights = {"q": Q.T.copy(), "s": S, "p": np.ones((6, 6), np.int8), "t": S, "z": np.zeros(6, np.int8)}
    proto = build_model(f"g (float[N,4] x) => (float[N,6] y) {{ {text} }}", weights)
    assert len(find_layers(canonicalize(ir.from_proto(proto)))[0]) == 2
    assert len(same(text, weights).graph.initializers) == len(weights)


def test_the_same_integers_twice_are_one_weight() -> None:
    text = """w = DequantizeLinear<axis = 1>(q, s)  h = MatMul(x, w)
    v = DequantizeLinear<axis = 1>(q, s)  g = MatMul(x, v)  y = Add(h, g)"""
    model = same(text, {"q": Q.T.copy(), "s": S})
    layers = find_layers(model)[0]
    assert [len(layer.uses) for layer in layers] == [2]
