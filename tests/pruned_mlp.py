"""A perceptron with a scaled last layer, and the same with other weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from layer_runs import normal

from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.graph.set_weights import SetWeights

FEEDS = [
    {"x": (np.random.default_rng(seed).normal(size=(4000, 6)) + 0.5).astype(np.float32)} for seed in (20, 21)
]


def changed(model: ir.Model, **values: np.ndarray) -> ir.Model:
    copy = model.clone()
    SetWeights(values)(copy)
    return copy


def halved(w: np.ndarray) -> np.ndarray:
    return np.where(np.abs(w) < np.median(np.abs(w)), 0, w)


@pytest.fixture
def scaled_mlp(make_model) -> ir.Model:
    return canonicalize(
        make_model(
            "g (float[N,6] x) => (float[N,3] y)"
            "{ a = Gemm(x, w1, b1) r = Relu(a) y = Gemm<alpha = 0.5, beta = 2.0>(r, w2, b2) }",
            {"w1": normal(1, 6, 10), "b1": normal(2, 10), "w2": normal(3, 10, 3), "b2": normal(4, 3)},
        )
    )
