"""What counts as a constant that is stored as integers, and what does not."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.passes.layers.find_layers import find_layers

W = np.arange(-12, 12, dtype=np.int8).reshape(4, 6)
S = np.linspace(0.1, 0.6, 6, dtype=np.float32)


def layers(make_model, text: str, weights: dict) -> tuple[list, list]:
    found, frozen = find_layers(make_model(f"g (float[N,4] x) => (float[N,6] y) {{ {text} }}", weights))
    return found, [one.reason for one in frozen]


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("w = DequantizeLinear(q, one)  y = MatMul(x, w)", {}),
        ("w = DequantizeLinear<axis = 1>(q, s)  y = MatMul(x, w)", {}),
        ("w = DequantizeLinear<axis = -1>(q, s, z)  y = MatMul(x, w)", {"z": np.arange(6, dtype=np.int8)}),
        ("f = Cast<to = 1>(q)  w = Mul(f, s)  y = MatMul(x, w)", {}),
        ("f = Cast<to = 1>(q)  w = Mul(s, f)  y = MatMul(x, w)", {}),
        ("f = Cast<to = 1>(q)  d = Sub(f, z)  w = Mul(d, s)  y = MatMul(x, w)", {"z": np.float32(3)}),
        ("h = DequantizeLinear(q, half)  w = Cast<to = 1>(h)  y = MatMul(x, w)", {"half": np.float16(0.5)}),
    ],
)
def test_scaled_integers_are_weights(make_model, text: str, more: dict) -> None:
    found, frozen = layers(make_model, text, {"q": W, "s": S, "one": np.float32(0.5), **more})
    assert not frozen
    assert [layer.name for layer in found] == ["q"]
    assert found[0].integers.shape == (4, 6)
    assert found[0].factor == "w"


@pytest.mark.parametrize(
    ("text", "more", "reason"),
    [
        (
            "w = DequantizeLinear(q, one)  t = Transpose(q)  y = MatMul(x, w)",
            {},
            "its weight is computed from q, which is also used by Transpose",
        ),
        (
            "w = DequantizeLinear(e, one)  y = MatMul(x, w)",
            {"e": W.astype(ml_dtypes.float8_e4m3fn)},
            "quantized weights are not pruned",
        ),
        (
            "f = Cast<to = 1>(q)  d = Sub(f, z)  w = Mul(d, s)  y = MatMul(x, w)",
            {"z": np.float32(0.5)},
            "its weight is computed from q by Mul",
        ),
    ],
)
def test_the_others_say_why_not(make_model, text: str, more: dict, reason: str) -> None:
    found, frozen = layers(make_model, text, {"q": W, "s": S, "one": np.float32(0.5), **more})
    assert not found
    assert len(frozen) == 1
    assert reason in frozen[0]


def test_the_bias_follows_scales_of_input_and_weight(make_model) -> None:
    text = """a = QuantizeLinear(x, sx, zx)  b = DequantizeLinear(a, sx, zx)
    w = DequantizeLinear<axis = 1>(q, s)  c = DequantizeLinear<axis = 0>(qb, sb)  y = Gemm(b, w, c)"""
    sx = np.float32(0.02)
    weights = {"q": W, "s": S, "sx": sx, "zx": np.uint8(3), "qb": np.arange(6, dtype=np.int32)}
    found, _ = layers(make_model, text, {**weights, "sb": S * sx})
    use = found[0].uses[0]
    assert (use.bias, use.input_scale) == ("qb", "sx")
    found, _ = layers(make_model, text, {**weights, "sb": S})
    assert (found[0].uses[0].bias, found[0].uses[0].input_scale) == ("qb", None)


def test_types_of_integers(make_model) -> None:
    for kind in (ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT16, ir.DataType.UINT16):
        q = np.arange(24).reshape(4, 6) % 7
        weights = {"q": q.astype(kind.numpy()), "one": np.float32(0.5)}
        model = make_model(
            "g (float[N,4] x) => (float[N,6] y) { w = DequantizeLinear(q, one)  y = MatMul(x, w) }", weights
        )
        form = find_layers(model)[0][0].integers
        limits = ml_dtypes.iinfo(kind.numpy())
        assert (form.lowest, form.highest) == (limits.min, limits.max)
