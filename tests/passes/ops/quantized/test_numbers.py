"""Weights of integers as numbers, against the formula."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from channel_graphs import found, model, node, normal
from channel_helpers import named, opened

from obs_onnx.criteria.channels.magnitude import l2
from obs_onnx.passes.ops.quantized.numbers import Numbers, spread

RNG = np.random.default_rng(3)


def integers(*shape: int) -> np.ndarray:
    return RNG.integers(-128, 128, shape).astype(np.int8)


HEAD = [
    node("Conv", "x a", "h"),
    node("QuantizeLinear", "h s z", "q"),
    node("QLinearConv", "q s z w ws wz s z bias", "c"),
    node("DequantizeLinear", "c s z", "f"),
    node("Conv", "f b", "y"),
]
WEIGHTS = {
    "a": normal(4, 3, 1, 1),
    "s": np.float32(0.1),
    "z": np.uint8(120),
    "w": integers(6, 4, 1, 1),
    "ws": np.linspace(0.001, 0.1, 6).astype(np.float32),
    "wz": np.arange(6, dtype=np.int8),
    "bias": RNG.integers(-99, 99, 6).astype(np.int32),
    "b": normal(2, 6, 1, 1),
}


def matrix() -> np.ndarray:
    w = WEIGHTS["w"].astype(np.float64) - WEIGHTS["wz"].reshape(-1, 1, 1, 1)
    return w * WEIGHTS["ws"].astype(np.float64).reshape(-1, 1, 1, 1)


def bias() -> np.ndarray:
    return WEIGHTS["bias"] * WEIGHTS["s"].astype(np.float64) * WEIGHTS["ws"].astype(np.float64)


def test_integers_are_numbers_by_scale_and_zero_point_and_these_are_none() -> None:
    numbers = Numbers(found(model(HEAD, WEIGHTS)).graph)
    np.testing.assert_allclose(numbers.of("w", WEIGHTS["w"]), matrix())
    np.testing.assert_array_equal(numbers.of("a", WEIGHTS["a"]), WEIGHTS["a"])
    np.testing.assert_allclose(numbers.of("bias", WEIGHTS["bias"]), bias())
    for name in ("ws", "wz"):
        assert numbers.of(name, WEIGHTS[name]) is None


def test_channels_are_ranked_by_what_integers_stand_for() -> None:
    """Two layers meet in the group; the scales turn the order of the integers around."""
    proto = model(HEAD, WEIGHTS)
    _, coupling, _, evidence = opened(proto, normal(4, 3, 5, 5))
    expected = (matrix() ** 2).sum((1, 2, 3)) + (WEIGHTS["b"].astype(np.float64) ** 2).sum((0, 2, 3))
    expected += bias() ** 2
    np.testing.assert_allclose(l2(evidence, named(coupling, "w[0]")), np.sqrt(expected))
    before = (matrix() ** 2).sum((0, 2, 3)) + (WEIGHTS["a"].astype(np.float64) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(l2(evidence, named(coupling, "a[0]")), np.sqrt(before))


@pytest.mark.parametrize("block", [0, 2])
def test_pairs_of_integers_and_numbers(block: int) -> None:
    q, zero = integers(5, 3), RNG.integers(-4, 4, (3, 3) if block else 3).astype(np.int8)
    scale = RNG.uniform(0.1, 0.2, zero.shape).astype(np.float32)
    attributes = {"axis": 0, "block_size": 2} if block else {"axis": 1}
    nodes = [node("DequantizeLinear", "q s z", "d", **attributes), node("MatMul", "x d", "y")]
    proto = model(nodes, {"q": q, "s": scale, "z": zero}, x=("N", 5), opset=21)
    spreading = (lambda a: np.repeat(a, 2, axis=0)[:5]) if block else (lambda a: a)
    expected = (q.astype(np.float64) - spreading(zero)) * spreading(scale).astype(np.float64)
    np.testing.assert_allclose(Numbers(found(proto).graph).of("q", q), expected)


def test_integers_without_a_constant_scale_are_not_known() -> None:
    nodes = [
        node("DynamicQuantizeLinear", "x", "xq xs xz"),
        node("MatMulInteger", "xq w xz", "m"),
        node("Cast", "m", "y", to=onnx.TensorProto.FLOAT),
    ]
    w = integers(3, 4)
    assert Numbers(found(model(nodes, {"w": w}, x=("N", 3))).graph).of("w", w) is None


def test_parameters_along_several_axes() -> None:
    grid = RNG.uniform(1, 2, (2, 3))
    np.testing.assert_array_equal(spread(grid, (2, 5, 3), (0, 2)), grid[:, None])
    np.testing.assert_array_equal(spread(grid[:, 0], (2, 5, 3), (0, 2)), grid[:, :1, None])
    np.testing.assert_array_equal(spread(grid[:1, 0], (2, 5), ()), grid[:1, :1])
