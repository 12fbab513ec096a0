"""Norms of sums written apart, with the products that a runtime puts behind them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from canonical_forms import operators
from nets import run_proto

from obs_onnx.passes.canonical.canonicalize import canonicalize, plain
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.traits.linear import packed

RNG = np.random.default_rng(0)
WIDTH, UNITS, BLOCK = 32, 48, 16
X, SKIP = RNG.standard_normal((2, 2, 3, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize(
    ("op_type", "inputs", "norm"),
    [
        ("SkipLayerNormalization", "x, skip, scale, shift, bias", "LayerNormalization"),
        ("SkipLayerNormalization", "x, skip, scale, shift", "LayerNormalization"),
        ("SkipLayerNormalization", 'x, skip, scale, "", bias', "LayerNormalization"),
        ("SkipSimplifiedLayerNormalization", "x, skip, scale, bias", "SimplifiedLayerNormalization"),
        ("SkipSimplifiedLayerNormalization", "x, skip, scale", "SimplifiedLayerNormalization"),
    ],
)
def test_the_norm_of_a_sum(make_proto, op_type: str, inputs: str, norm: str, opset: int) -> None:
    given = {name: RNG.uniform(0.5, 1.5, WIDTH).astype(np.float32) for name in ("scale", "shift", "bias")}
    proto = make_proto(
        f"g (float[2,3,{WIDTH}] x, float[2,3,{WIDTH}] skip) => (float[2,3,{WIDTH}] y, float[2,3,{WIDTH}] s) "
        f"{{ y, m, v, s = com.microsoft.{op_type}<epsilon = 0.01>({inputs}) }}".replace('""', ""),
        {name: array for name, array in given.items() if name in inputs},
        opset=opset,
    )
    model = plain(ir.from_proto(proto))
    stays = norm == "LayerNormalization" and opset < 17
    added = ["Add"] * (2 if "bias" in inputs else 1)
    assert operators(model) == ([op_type] if stays else [*added, norm])
    expected, found = (run_proto(one, {"x": X, "skip": SKIP}) for one in (proto, ir.to_proto(model)))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)


def stored(name: str, rows: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Inputs of a product of 4 bits, and the matrix (input, output) that they stand for."""
    q = RNG.integers(0, 16, (rows, WIDTH // BLOCK, BLOCK)).astype(np.uint8)
    scales = RNG.uniform(0.02, 0.05, (rows, WIDTH // BLOCK)).astype(np.float32)
    dense = (q.astype(np.float32) - 8) * scales[..., None]
    return {f"{name}_q": packed(q, 4), f"{name}_s": scales}, dense.reshape(rows, WIDTH).T


def normed(x: np.ndarray, scale: np.ndarray, epsilon: float = 1e-5) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * scale


@pytest.mark.parametrize("form", ["plain", "norm", "skip"])
def test_a_gate_and_what_it_gates(make_proto, form: str) -> None:
    (gate, g), (up, u) = stored("gate", UNITS), stored("up", UNITS)
    scale, bias = (RNG.uniform(0.5, 1.5, n).astype(np.float32) for n in (WIDTH, UNITS))
    first = {"plain": "x, , ", "norm": "x, , scale", "skip": "x, skip, scale"}[form]
    sizes = f'K = {WIDTH}, N = {UNITS}, bits = 4, block_size = {BLOCK}, activation = "silu"'
    inputs = f"float[2,3,{WIDTH}] x" + f", float[2,3,{WIDTH}] skip" * (form == "skip")
    weights = {**gate, **up, "bias": bias, "scale": scale}
    proto = make_proto(
        f"g ({inputs}) => (float[2,3,{UNITS}] y{f', float[2,3,{WIDTH}] s' * (form == 'skip')}) "
        f"{{ y{', s' * (form == 'skip')} = com.microsoft.MatMulNBitsMlp<{sizes}>"
        f"({first}, gate_q, gate_s, bias, up_q, up_s, ) }}",
        {name: array for name, array in weights.items() if name != "scale" or form != "plain"},
        opset=17,
    )
    feeds = {"x": X, "skip": SKIP} if form == "skip" else {"x": X}
    total = X + SKIP if form == "skip" else X
    found = run_proto(ir.to_proto(plain(ir.from_proto(proto))), feeds)
    h = total if form == "plain" else normed(total, scale)
    a = h @ g + bias
    np.testing.assert_allclose(found["y"], a / (1 + np.exp(-a)) * (h @ u), rtol=1e-4, atol=1e-4)
    if form == "skip":
        np.testing.assert_allclose(found["s"], total, rtol=1e-6)


def test_queries_keys_and_values_of_a_norm(make_proto) -> None:
    parts = {name: stored(name, rows) for name, rows in (("q", 64), ("k", 16), ("v", 16))}
    scale = RNG.uniform(0.5, 1.5, WIDTH).astype(np.float32)
    sizes = f"K = {WIDTH}, Nq = 64, Nkv = 16, bits = 4, block_size = {BLOCK}, epsilon = 0.001"
    proto = make_proto(
        f"g (float[2,3,{WIDTH}] x, float[2,3,{WIDTH}] skip) => (float[2,3,64] a, float[2,3,16] b,"
        f" float[2,3,16] c, float[2,3,{WIDTH}] s) {{ a, b, c, s = com.microsoft.MatMulNBitsQkv<{sizes}>"
        "(x, skip, scale, q_q, q_s, , k_q, k_s, , v_q, v_s, ) }",
        {"scale": scale, **{name: array for held, _ in parts.values() for name, array in held.items()}},
        opset=17,
    )
    model = plain(ir.from_proto(proto))
    assert operators(model) == ["Add", "SimplifiedLayerNormalization", *["MatMulNBits"] * 3]
    found = run_proto(ir.to_proto(model), {"x": X, "skip": SKIP})
    h = normed(X + SKIP, scale, 1e-3)
    for name, (_, dense) in zip("abc", parts.values(), strict=True):
        np.testing.assert_allclose(found[name], h @ dense, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["s"], X + SKIP, rtol=1e-6)
    assert len(find_layers(canonicalize(ir.from_proto(proto)))[0]) == 3


def test_an_activation_that_is_not_known_stays(make_proto) -> None:
    (gate, _), (up, _) = stored("gate", UNITS), stored("up", UNITS)
    sizes = f'K = {WIDTH}, N = {UNITS}, bits = 4, block_size = {BLOCK}, activation = "swoosh"'
    proto: onnx.ModelProto = make_proto(
        f"g (float[2,3,{WIDTH}] x) => (float[2,3,{UNITS}] y) {{ y = com.microsoft.MatMulNBitsMlp<{sizes}>"
        "(x, , , gate_q, gate_s, , up_q, up_s, ) }",
        {**gate, **up},
        opset=17,
    )
    model = plain(ir.from_proto(proto))
    assert operators(model) == ["MatMulNBitsMlp"]
    assert couple(model).groups == []
