"""Errors of layers against explicit products."""

from __future__ import annotations

import numpy as np
import pytest
from layer_runs import RUNTIME, normal, stored
from pruned_mlp import FEEDS, changed, halved

from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.verification.layer_errors import measure


class TestMeasure:
    def test_errors_of_layers(self, scaled_mlp, run_model) -> None:
        pruned = changed(scaled_mlp, w1=halved(stored(scaled_mlp, "w1")), w2=halved(stored(scaled_mlp, "w2")))
        before = serialize(pruned)
        layers, _ = find_layers(scaled_mlp)
        measured = measure(RUNTIME, scaled_mlp, pruned, layers, FEEDS)
        assert serialize(pruned) == before
        x = np.concatenate([feed["x"] for feed in FEEDS]).astype(np.float64)
        first = [x @ stored(model, "w1") + stored(model, "b1") for model in (scaled_mlp, pruned)]
        second = [0.5 * np.maximum(first[0], 0) @ stored(model, "w2") for model in (scaled_mlp, pruned)]
        assert measured.isolated_errors["w1"] == pytest.approx(np.linalg.norm(first[1] - first[0]), rel=1e-5)
        assert measured.isolated_errors["w2"] == pytest.approx(
            np.linalg.norm(second[1] - second[0]), rel=1e-5
        )
        spread = np.concatenate([a - a.mean(axis=0) for a in np.split(first[0], 2)])
        relative = np.linalg.norm(first[1] - first[0]) / np.linalg.norm(spread)
        assert measured.layer_errors["w1"] == pytest.approx(relative, rel=1e-4)
        y, z = (run_model(model, {"x": x.astype(np.float32)})["y"] for model in (scaled_mlp, pruned))
        assert measured.output_norms["y"] == pytest.approx(np.linalg.norm(y), rel=1e-5)
        assert measured.output_changes["y"] == pytest.approx(np.linalg.norm(z - y), rel=1e-5)
        centred = np.concatenate([a - a.mean(axis=0) for a in np.split(y, 2)])
        relative = np.linalg.norm(z - y) / np.linalg.norm(centred)
        assert measured.layer_errors["w2"] == pytest.approx(relative, rel=1e-4)

    def test_a_layer_that_feeds_the_next_one_has_an_error_of_its_own(self, make_model) -> None:
        model = canonicalize(
            make_model(
                "g (float[N,6] x) => (float[N,3] y) { a = MatMul(x, u) b = MatMul(a, v) y = MatMul(b, w) }",
                {"u": normal(0, 6, 5), "v": normal(1, 5, 5), "w": normal(2, 5, 3)},
            )
        )
        values = {name: halved(stored(model, name)) for name in "uvw"}
        layers, _ = find_layers(model)
        measured = measure(RUNTIME, model, changed(model, **values), layers, FEEDS)
        x = np.concatenate([feed["x"] for feed in FEEDS]).astype(np.float64)
        for name in "uvw":
            expected = np.linalg.norm(x @ (values[name] - stored(model, name)))
            assert measured.isolated_errors[name] == pytest.approx(expected, rel=1e-4)
            x = x @ stored(model, name)
