"""BatchNormalization folded where that is exact, and left alone where it is not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from canonical_forms import operators

from obs_onnx.passes import canonicalize, find_layers


def normalization(rng: np.random.Generator, channels: int, dtype: type = np.float32) -> dict[str, np.ndarray]:
    return {
        "gamma": rng.normal(size=channels).astype(dtype),
        "beta": rng.normal(size=channels).astype(dtype),
        "mean": rng.normal(size=channels).astype(dtype),
        "var": (rng.random(channels) + 0.1).astype(dtype),
    }


NORM = "BatchNormalization <epsilon = 0.001> ({}, gamma, beta, mean, var)"


class TestBatchNormalization:
    @pytest.mark.parametrize("bias", ["", ", b"])
    @pytest.mark.parametrize(
        ("node", "weight", "channels"),
        [
            ("Conv <pads = [1, 1]> (x, w{})", (6, 4, 3), 6),
            ("Conv <group = 2> (x, w{})", (6, 2, 3), 6),
            ("ConvTranspose <strides = [2]> (x, w{})", (4, 5, 3), 5),
            ("ConvTranspose <group = 2, strides = [2]> (x, w{})", (4, 3, 2), 6),
        ],
    )
    def test_after_convolutions(self, make_proto, check, rng, node, weight, channels, bias):
        proto = make_proto(
            f"g (float[N,4,9] x) => (float[N,c,l] y) {{ h = {node.format(bias)}  y = {NORM.format('h')} }}",
            {
                "w": rng.normal(size=weight).astype(np.float32),
                "b": rng.normal(size=channels).astype(np.float32),
            }
            | normalization(rng, channels),
        )
        if not bias:
            del proto.graph.initializer[1]
        model = check(proto, {"x": rng.normal(size=(2, 4, 9)).astype(np.float32)})
        assert operators(model) == [node.split()[0]]
        (layer,), _ = find_layers(model)
        assert (layer.uses[0].y, len(model.graph.initializers)) == ("y", 2)

    @pytest.mark.parametrize(
        ("nodes", "left"),
        [
            ("h = MatMul(x, w)", ["MatMul", "Add"]),
            ("m = MatMul(x, w)  h = Add(b, m)", ["MatMul", "Add"]),
            ("h = Gemm <alpha = 0.5, beta = 2.0> (x, w, b)", ["Gemm"]),
            ("h = Gemm <alpha = -2.0> (x, w)", ["Gemm"]),
            ("h = Gemm <beta = 2.0> (x, w)", ["Gemm"]),
            ("h = Gemm <beta = 0.0> (x, w, b)", ["Gemm"]),
        ],
    )
    def test_after_products(self, make_proto, check, rng, nodes, left):
        proto = make_proto(
            f"g (float[N,4] x) => (float[N,6] y) {{ {nodes}  n = {NORM.format('h')}  y = Relu(n) }}",
            {"w": rng.normal(size=(4, 6)).astype(np.float32), "b": rng.normal(size=6).astype(np.float32)}
            | normalization(rng, 6),
        )
        model = check(proto, {"x": rng.normal(size=(5, 4)).astype(np.float32)})
        assert operators(model) == [*left, "Relu"]

    def test_half_precision_weights_keep_their_type(self, make_proto, check, rng):
        proto = make_proto(
            f"g (float16[N,4,9] x) => (float16[N,6,7] y) {{ h = Conv(x, w)  y = {NORM.format('h')} }}",
            {"w": rng.normal(size=(6, 4, 3)).astype(np.float16)} | normalization(rng, 6, np.float16),
        )
        model = check(proto, {"x": rng.normal(size=(2, 4, 9)).astype(np.float16)}, rtol=4e-3)
        assert operators(model) == ["Conv"]
        assert {v.dtype for v in model.graph.initializers.values()} == {ir.DataType.FLOAT16}

    @pytest.mark.parametrize(
        "nodes",
        [
            "h = Conv(x, w)  n = {}  y = Add(n, h)",  # used elsewhere
            "h = Conv(x, w)  y = {}  z = Relu(w)",  # weight used elsewhere
            "h = Conv(x, w)  g1 = Abs(gamma)  y = BatchNormalization (h, g1, beta, mean, var)",
        ],
    )
    def test_left_alone(self, make_proto, check, rng, nodes):
        proto = make_proto(
            f"g (float[N,4,9] x) => (float[N,6,7] y) {{ {nodes.format(NORM.format('h'))} }}",
            {"w": rng.normal(size=(6, 4, 3)).astype(np.float32)} | normalization(rng, 6),
        )
        model = check(proto, {"x": rng.normal(size=(2, 4, 9)).astype(np.float32)})
        assert "BatchNormalization" in operators(model)

    def test_training_mode_is_left_alone(self, make_model, rng):
        node = "y, m, v = BatchNormalization <training_mode = 1> (h, gamma, beta, mean, var)"
        model = make_model(
            f"g (float[N,4,9] x) => (float[N,6,7] y) {{ h = Conv(x, w)  {node} }}",
            {"w": rng.normal(size=(6, 4, 3)).astype(np.float32)} | normalization(rng, 6),
        )
        assert operators(canonicalize(model)) == ["Conv", "BatchNormalization"]

    def test_matmul_with_channels_on_another_axis(self, make_proto, check, rng):
        proto = make_proto(
            f"g (float[N,6,4] x) => (float[N,6,6] y) {{ h = MatMul(x, w)  y = {NORM.format('h')} }}",
            {"w": rng.normal(size=(4, 6)).astype(np.float32)} | normalization(rng, 6),
        )
        model = check(proto, {"x": rng.normal(size=(5, 6, 4)).astype(np.float32)})
        assert operators(model) == ["MatMul", "BatchNormalization"]
