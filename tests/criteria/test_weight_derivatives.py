"""Derivatives by weights against finite differences in float64."""

from __future__ import annotations

from collections.abc import Callable

import nets
import numpy as np
import onnx_ir as ir
import pytest
from channel_helpers import entropy
from product_chain import SHAPES, Weights, chain, doubles, logits, sensitivities, terms

from obs_onnx.criteria.reference_loss import LabelledBatches
from obs_onnx.criteria.weight_derivatives import WeightDerivatives, WeightScores
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.runtimes import open_runtime


def gradient(loss: Callable[[Weights], float], w: Weights, step: float = 1e-5) -> dict[str, np.ndarray]:
    """By central differences."""
    found = {}
    for name, array in w.items():
        g = np.zeros(array.shape)
        for place in np.ndindex(array.shape):
            d = np.zeros(array.shape)
            d[place] = step
            g[place] = (loss({**w, name: array + d}) - loss({**w, name: array - d})) / (2 * step)
        found[name] = g
    return found


class TestWeights:
    @pytest.fixture
    def case(self, make_proto):
        proto, x = chain(make_proto), nets.data(0, 24, 7)
        w, x64 = doubles(proto), x.astype(np.float64)
        labels = logits(w, x64).argmax(1)
        return sensitivities(proto, x), w, x64, labels

    def test_first_order(self, case) -> None:
        found, w, x, labels = case
        g = gradient(lambda v: entropy(logits(v, x), labels).mean(), w)
        taylor, fisher = terms(found, "taylor"), terms(found, "fisher")
        for name in SHAPES:
            np.testing.assert_allclose(taylor[name], g[name] * w[name], rtol=1e-3, atol=1e-6)
            assert fisher[name].shape == w[name].shape
            assert fisher[name].min() >= 0

    def test_exact_hessian_vector_product(self, case) -> None:
        found, w, x, labels = case
        step = 1e-4

        def loss(v: Weights) -> float:
            return float(entropy(logits(v, x), labels).mean())

        high, low = (gradient(loss, {n: a * (1 + s) for n, a in w.items()}) for s in (step, -step))
        g, both, second = gradient(loss, w), terms(found, "oba"), terms(found, "oba-second")
        for name, array in w.items():
            half = array * (high[name] - low[name]) / (2 * step) / 2
            np.testing.assert_allclose(second[name], half, rtol=2e-3, atol=2e-6)
            np.testing.assert_allclose(both[name], half - g[name] * array, rtol=2e-3, atol=2e-6)

    def test_the_papers_form_lacks_the_gauss_newton_part(self, case) -> None:
        """H w - H' w = J^T (d2L/dz2) J w."""
        found, w, x, _ = case
        step = 1e-5
        second, paper = terms(found, "oba-second"), terms(found, "oba-paper")
        z = logits(w, x)
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        high, low = (logits({n: a * (1 + s) for n, a in w.items()}, x) for s in (step, -step))
        jw = (high - low) / (2 * step)
        curved = p * (jw - (p * jw).sum(1, keepdims=True)) / len(x)
        newton = gradient(lambda v: float((logits(v, x) * curved).sum()), w)
        for name, array in w.items():
            np.testing.assert_allclose(
                2 * second[name] - paper[name], array * newton[name], rtol=2e-3, atol=2e-6
            )

    def test_the_papers_form_is_taylor_on_chains_of_relu(self, make_proto) -> None:
        found = sensitivities(chain(make_proto, "Relu"), nets.data(0, 24, 7))
        paper, taylor = terms(found, "oba-paper"), terms(found, "taylor")
        for name in SHAPES:
            np.testing.assert_allclose(paper[name], 2 * taylor[name], rtol=1e-3, atol=1e-6)

    def test_the_diagonal_is_estimated_without_bias(self, make_proto) -> None:
        """Signs average out over many batches of the same data."""
        proto, x = chain(make_proto), nets.data(0, 8, 7)
        w, x64 = doubles(proto), x.astype(np.float64)
        labels = logits(w, x64).argmax(1)
        lessons = LabelledBatches(
            open_runtime("onnxruntime", 1),
            prepare(ir.from_proto(proto)),
            [{"x": x}] * 600,
            task="classification",
        )
        found = WeightDerivatives(lessons, list(SHAPES)).mean_absolute("obd")
        step, exact, error = 1e-3, [], []
        for place in np.ndindex(w["w3"].shape):
            d = np.zeros(w["w3"].shape)
            d[place] = step
            high, low = (entropy(logits({**w, "w3": w["w3"] + s * d}, x64), labels).mean() for s in (1, -1))
            h = (high - 2 * entropy(logits(w, x64), labels).mean() + low) / step**2
            exact.append(abs(h) * w["w3"][place] ** 2 / 2)
            error.append(found["w3"][place] - exact[-1])
        assert np.linalg.norm(error) < 0.2 * np.linalg.norm(exact)


class TestScores:
    def test_scores_are_in_the_layers_form(self) -> None:
        model = prepare(ir.from_proto(nets.grouped()))
        lessons = LabelledBatches(open_runtime("onnxruntime", 1), model, [{"x": nets.data(0, 16, 3, 6, 6)}])
        layers = find_layers(model)[0]
        sensitivities = WeightDerivatives(lessons, [layer.name for layer in layers])
        scores, plain = WeightScores(sensitivities, "taylor"), sensitivities.mean_absolute("taylor")
        for layer in layers:
            np.testing.assert_allclose(layer.layout.to_tensor(scores(layer)), plain[layer.name], rtol=1e-9)
