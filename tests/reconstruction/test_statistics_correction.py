"""Corrected statistics against recomputed ones."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from layer_runs import RUNTIME, normal, stored
from pruned_mlp import FEEDS, changed, halved

from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.stages import plan_stages
from obs_onnx.reconstruction.statistics_correction import correct_statistics, reestimate_batch_normalization


def corrected(dense: ir.Model, pruned: ir.Model, feeds=FEEDS) -> ir.Model:
    layers, _ = find_layers(dense)
    steps: list[int] = []
    result = correct_statistics(
        RUNTIME, dense, pruned, plan_stages(dense, layers), feeds, budget=1 << 30, advance=steps.append
    )
    assert sum(steps) == len(layers)
    return result


class TestCorrection:
    def test_outputs_get_the_dense_mean_and_spread(self, scaled_mlp, run_model) -> None:
        pruned = changed(scaled_mlp, w1=halved(stored(scaled_mlp, "w1")), w2=halved(stored(scaled_mlp, "w2")))
        before = serialize(pruned)
        result = corrected(scaled_mlp, pruned)
        assert serialize(pruned) == before
        x = np.concatenate([feed["x"] for feed in FEEDS])
        y, z, raw = (run_model(model, {"x": x})["y"] for model in (scaled_mlp, result, pruned))
        np.testing.assert_allclose(z.mean(axis=0), y.mean(axis=0), atol=1e-4)
        np.testing.assert_allclose(z.std(axis=0), y.std(axis=0), rtol=0.02)
        assert not np.allclose(raw.std(axis=0), y.std(axis=0), rtol=0.02)
        for name in ("w1", "w2"):
            np.testing.assert_array_equal(stored(result, name) == 0, stored(pruned, name) == 0)

    def test_few_samples_are_trusted_less(self, scaled_mlp) -> None:
        pruned = changed(scaled_mlp, w1=halved(stored(scaled_mlp, "w1")))
        few = corrected(scaled_mlp, pruned, [{"x": FEEDS[0]["x"][:16]}])
        many = corrected(scaled_mlp, pruned)
        moved = [np.abs(stored(model, "w1") - stored(pruned, "w1")).sum() for model in (few, many)]
        assert 0 < moved[0] < 0.6 * moved[1]

    def test_the_dense_model_stays(self, scaled_mlp, run_model) -> None:
        y, z = (run_model(model, FEEDS[0])["y"] for model in (scaled_mlp, corrected(scaled_mlp, scaled_mlp)))
        np.testing.assert_allclose(z, y, atol=1e-4)

    def test_layers_without_a_bias_of_their_own_stay(self, make_model) -> None:
        model = canonicalize(
            make_model(
                "g (float[N,6] x) => (float[N,3] y)"
                "{ a = MatMul(x, s) c = MatMul(a, s) d = Gemm<beta = 0.0>(c, w, b) y = MatMul(d, v) }",
                {"s": normal(0, 6, 6), "w": normal(1, 6, 4), "b": normal(2, 4), "v": normal(3, 4, 3)},
            )
        )
        pruned = changed(model, **{name: halved(stored(model, name)) for name in ("s", "w", "v")})
        assert serialize(corrected(model, pruned)) == serialize(pruned)

    def test_batch_normalization(self, make_model, run_model) -> None:
        model = make_model(
            "g (float[N,3,4] x) => (float[N,3,4] y) { n = BatchNormalization(x, s, b, m, v) r = Relu(n) "
            "y = BatchNormalization(r, s2, b2, m2, v2) }",
            {f"{kind}{end}": np.full(3, value, np.float32) for end in ("", "2") for kind, value in
             (("s", 1.5), ("b", 0.5), ("m", 0), ("v", 1))},
        )  # fmt: skip
        x = 3 * normal(5, 500, 3, 4) + np.array([1, -2, 5], np.float32)[:, None]
        feeds = [{"x": x[:200]}, {"x": x[200:]}]
        result = reestimate_batch_normalization(RUNTIME, model, feeds)
        np.testing.assert_allclose(stored(result, "m"), x.mean(axis=(0, 2)), rtol=1e-4)
        np.testing.assert_allclose(stored(result, "v"), x.var(axis=(0, 2)), rtol=1e-4)
        y = run_model(result, {"x": x})["y"]
        np.testing.assert_allclose(y.mean(axis=(0, 2)), 0.5, atol=1e-3)
        np.testing.assert_allclose(y.std(axis=(0, 2)), 1.5, rtol=1e-3)
        np.testing.assert_array_equal(stored(model, "m"), 0)
