"""Three products with a function between them, its derivatives by gates and by weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_helpers import entropy, named, opened

from obs_onnx.criteria.reference_loss import LabelledBatches
from obs_onnx.criteria.weight_derivatives import WeightDerivatives
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.runtimes import open_runtime

SHAPES = {"w1": (7, 6), "w2": (6, 5), "w3": (5, 4)}

Weights = Mapping[str, np.ndarray]


def chain(make_proto: Callable[..., onnx.ModelProto], f: str = "Tanh", output: str = "") -> onnx.ModelProto:
    """Three products with ``f`` between them, no biases; ``output`` is an operator behind the last one."""
    rng = np.random.default_rng(3)
    tail = f"z = MatMul(h2, w3) y = {output} (z)" if output else "y = MatMul(h2, w3)"
    return make_proto(
        f"g (float[N,7] x) => (float[N,4] y)"
        f"{{ a = MatMul(x, w1) h1 = {f}(a) b = MatMul(h1, w2) h2 = {f}(b) {tail} }}",
        {name: (rng.normal(size=shape) * 0.8).astype(np.float32) for name, shape in SHAPES.items()},
    )


def logits(w: Weights, x: np.ndarray, gates: np.ndarray | float = 1.0, f: Callable = np.tanh) -> np.ndarray:
    """Of the chain, with gates behind the first hidden layer."""
    return f(gates * f(x @ w["w1"]) @ w["w2"]) @ w["w3"]


def doubles(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer}


@pytest.fixture
def gated_chain(make_proto):
    """First and second derivatives of every example by finite differences."""
    proto, x = chain(make_proto), nets.data(0, 70, 7)
    w, x64 = doubles(proto), x.astype(np.float64)
    labels = logits(w, x64).argmax(1)
    one, step = np.ones(6), 1e-3

    def at(gates: np.ndarray) -> np.ndarray:
        return entropy(logits(w, x64, gates), labels)

    g, h = [], []
    for unit in np.eye(6) * step:
        low, middle, high = at(one - unit), at(one), at(one + unit)
        g.append((high - low) / (2 * step))
        h.append((high - 2 * middle + low) / step**2)
    _, coupling, _, evidence = opened(proto, x, batch=32)
    return evidence, named(coupling, "w1[1]"), np.array(g), np.array(h)


def sensitivities(proto: onnx.ModelProto, x: np.ndarray) -> WeightDerivatives:
    lessons = LabelledBatches(
        open_runtime("onnxruntime", 1), prepare(ir.from_proto(proto)), [{"x": x}], task="classification"
    )
    return WeightDerivatives(lessons, list(SHAPES))


def terms(found: WeightDerivatives, kind: str) -> dict[str, np.ndarray]:
    _, terms = next(iter(found.terms(kind)))
    assert set(terms) == set(SHAPES)
    return dict(terms)
