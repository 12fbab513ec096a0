"""Layers of a small perceptron, solved; random arrays; the values that a model stores."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.stages import plan_stages
from obs_onnx.reconstruction.layers import SolveOptions, solve_layers
from obs_onnx.runtimes import open_runtime

RUNTIME = open_runtime(threads=1)
LARGE = 1 << 30


def normal(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


FEEDS = [{"x": normal(seed, 40, 6)} for seed in (20, 21, 22)]


def stored(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy().astype(np.float64)


def planned(model: ir.Model):
    canonical = canonicalize(model)
    layers, _ = find_layers(canonical)
    return canonical, layers, plan_stages(canonical, layers)


@pytest.fixture
def mlp(make_model) -> ir.Model:
    return make_model(
        "g (float[N,6] x) => (float[N,3] y) { a = Gemm(x, w1, b1) r = Relu(a) y = Gemm(r, w2, b2) }",
        {"w1": normal(1, 6, 10), "b1": normal(2, 10), "w2": normal(3, 10, 3), "b2": normal(4, 3)},
    )


def solved(model, feeds, removed, *, budget=LARGE, **options):
    canonical, _, plan = planned(model)
    settings = SolveOptions(**options)
    pruned, results = solve_layers(
        RUNTIME, canonical, plan, feeds, removed, options=settings, budget=budget, advance=lambda n: None
    )
    return canonical, pruned, results
