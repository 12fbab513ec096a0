"""Statistics correction against recomputed statistics; verification against tampered models."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import VerificationError
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.stages import plan_stages
from obs_onnx.reconstruction.statistics_correction import correct_statistics, reestimate_batch_normalization
from obs_onnx.runtimes import open_runtime
from obs_onnx.solvers import UNSTRUCTURED, parse_pattern
from obs_onnx.verification.layer_errors import measure
from obs_onnx.verification.written_model import check_model
from obs_onnx.verification.zeros import check_zeros

RUNTIME = open_runtime(threads=1)
FEEDS = [
    {"x": (np.random.default_rng(seed).normal(size=(4000, 6)) + 0.5).astype(np.float32)} for seed in (20, 21)
]


def normal(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def stored(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy().astype(np.float64)


def changed(model: ir.Model, **values: np.ndarray) -> ir.Model:
    copy = model.clone()
    SetWeights(values)(copy)
    return copy


def halved(w: np.ndarray) -> np.ndarray:
    return np.where(np.abs(w) < np.median(np.abs(w)), 0, w)


@pytest.fixture
def mlp(make_model) -> ir.Model:
    return canonicalize(
        make_model(
            "g (float[N,6] x) => (float[N,3] y)"
            "{ a = Gemm(x, w1, b1) r = Relu(a) y = Gemm<alpha = 0.5, beta = 2.0>(r, w2, b2) }",
            {"w1": normal(1, 6, 10), "b1": normal(2, 10), "w2": normal(3, 10, 3), "b2": normal(4, 3)},
        )
    )


def corrected(dense: ir.Model, pruned: ir.Model, feeds=FEEDS) -> ir.Model:
    layers, _ = find_layers(dense)
    steps: list[int] = []
    result = correct_statistics(
        RUNTIME, dense, pruned, plan_stages(dense, layers), feeds, budget=1 << 30, advance=steps.append
    )
    assert sum(steps) == len(layers)
    return result


class TestCorrection:
    def test_outputs_get_the_dense_mean_and_spread(self, mlp, run_model) -> None:
        pruned = changed(mlp, w1=halved(stored(mlp, "w1")), w2=halved(stored(mlp, "w2")))
        before = serialize(pruned)
        result = corrected(mlp, pruned)
        assert serialize(pruned) == before
        x = np.concatenate([feed["x"] for feed in FEEDS])
        y, z, raw = (run_model(model, {"x": x})["y"] for model in (mlp, result, pruned))
        np.testing.assert_allclose(z.mean(axis=0), y.mean(axis=0), atol=1e-4)
        np.testing.assert_allclose(z.std(axis=0), y.std(axis=0), rtol=0.02)
        assert not np.allclose(raw.std(axis=0), y.std(axis=0), rtol=0.02)
        for name in ("w1", "w2"):
            np.testing.assert_array_equal(stored(result, name) == 0, stored(pruned, name) == 0)

    def test_few_samples_are_trusted_less(self, mlp) -> None:
        pruned = changed(mlp, w1=halved(stored(mlp, "w1")))
        few = corrected(mlp, pruned, [{"x": FEEDS[0]["x"][:16]}])
        many = corrected(mlp, pruned)
        moved = [np.abs(stored(model, "w1") - stored(pruned, "w1")).sum() for model in (few, many)]
        assert 0 < moved[0] < 0.6 * moved[1]

    def test_the_dense_model_stays(self, mlp, run_model) -> None:
        y, z = (run_model(model, FEEDS[0])["y"] for model in (mlp, corrected(mlp, mlp)))
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


class TestMeasure:
    def test_errors_of_layers(self, mlp, run_model) -> None:
        pruned = changed(mlp, w1=halved(stored(mlp, "w1")), w2=halved(stored(mlp, "w2")))
        before = serialize(pruned)
        layers, _ = find_layers(mlp)
        measured = measure(RUNTIME, mlp, pruned, layers, FEEDS)
        assert serialize(pruned) == before
        x = np.concatenate([feed["x"] for feed in FEEDS]).astype(np.float64)
        first = [x @ stored(model, "w1") + stored(model, "b1") for model in (mlp, pruned)]
        second = [0.5 * np.maximum(first[0], 0) @ stored(model, "w2") for model in (mlp, pruned)]
        assert measured.isolated_errors["w1"] == pytest.approx(np.linalg.norm(first[1] - first[0]), rel=1e-5)
        assert measured.isolated_errors["w2"] == pytest.approx(
            np.linalg.norm(second[1] - second[0]), rel=1e-5
        )
        spread = np.concatenate([a - a.mean(axis=0) for a in np.split(first[0], 2)])
        relative = np.linalg.norm(first[1] - first[0]) / np.linalg.norm(spread)
        assert measured.layer_errors["w1"] == pytest.approx(relative, rel=1e-4)
        y, z = (run_model(model, {"x": x.astype(np.float32)})["y"] for model in (mlp, pruned))
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


class TestCheckZeros:
    def masks(self, model: ir.Model) -> dict[str, np.ndarray]:
        layers, _ = find_layers(model)
        return {layer.name: layer.layout.to_matrix(stored(model, layer.name)) != 0 for layer in layers}

    def test_counts(self, mlp) -> None:
        pruned = changed(mlp, w1=halved(stored(mlp, "w1")))
        layers, _ = find_layers(mlp)
        assert check_zeros(pruned, layers, self.masks(pruned), UNSTRUCTURED) == {"w1": 30, "w2": 0}
        assert check_zeros(pruned, layers, {}, UNSTRUCTURED) == {"w1": 30, "w2": 0}

    def test_a_weight_that_came_back(self, mlp) -> None:
        pruned = changed(mlp, w1=halved(stored(mlp, "w1")))
        layers, _ = find_layers(mlp)
        masks = self.masks(pruned)
        tampered = stored(pruned, "w1")
        tampered[tuple(np.argwhere(tampered == 0)[3])] = 1e-20
        with pytest.raises(VerificationError, match="layer w1 has 1 weights that should be zero"):
            check_zeros(changed(pruned, w1=tampered), layers, masks, UNSTRUCTURED)

    def test_patterns_lie_along_the_inputs(self, make_model) -> None:
        model = canonicalize(
            make_model("g (float[N,8] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": normal(0, 8, 4)})
        )
        layers, _ = find_layers(model)
        along = stored(model, "w")
        along[[0, 3, 4, 6]] = 0  # two of every four inputs
        pruned = changed(model, w=along)
        assert check_zeros(pruned, layers, self.masks(pruned), parse_pattern("2:4")) == {"w": 16}
        across = stored(model, "w")
        across[:4, [0, 1]] = 0  # two of every four outputs
        across[0, 2] = 0
        pruned = changed(model, w=across)
        for pattern, ok in (("3:4", True), ("2:4", False), ("4x1", False), ("1x4", False), ("1x1", True)):
            if ok and pattern == "1x1":
                assert check_zeros(pruned, layers, self.masks(pruned), parse_pattern(pattern)) == {"w": 9}
            else:
                with pytest.raises(VerificationError, match="layer w breaks the pattern"):
                    check_zeros(pruned, layers, self.masks(pruned), parse_pattern(pattern))

    def test_a_kept_weight_may_be_zero(self, make_model) -> None:
        model = canonicalize(
            make_model("g (float[N,8] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": normal(0, 8, 4)})
        )
        layers, _ = find_layers(model)
        values = stored(model, "w")
        values[:4] = 0
        masks = self.masks(changed(model, w=values))
        values[5, 1] = 0
        assert check_zeros(changed(model, w=values), layers, masks, parse_pattern("1x4")) == {"w": 17}


class TestCheckModel:
    def test_other_numbers(self, mlp) -> None:
        expected = RUNTIME.session(serialize(mlp)).run(FEEDS[0])
        check_model(RUNTIME, mlp, FEEDS[0], expected)
        tampered = stored(mlp, "w1")
        tampered[2, 3] += 0.01
        with pytest.raises(VerificationError, match="output y of the written model differs"):
            check_model(RUNTIME, changed(mlp, w1=tampered), FEEDS[0], expected)

    def test_a_model_that_is_none(self, mlp) -> None:
        expected = RUNTIME.session(serialize(mlp)).run(FEEDS[0])
        broken = mlp.clone()
        next(iter(broken.graph)).op_type = "Gemmm"
        with pytest.raises(VerificationError, match="checker"):
            check_model(RUNTIME, broken, FEEDS[0], expected)

    @pytest.mark.parametrize("value", [-np.inf, np.nan])
    def test_numbers_that_are_not_finite_must_be_the_same(self, make_model, value: float) -> None:
        model = make_model(
            "g (float[N,6] x) => (float[N,6] y) { y = Add(x, m) }",
            {"m": np.array([0, 0, value, 0, 0, 0], np.float32)},
        )
        expected = RUNTIME.session(serialize(model)).run(FEEDS[0])
        check_model(RUNTIME, model, FEEDS[0], expected)
        finite = canonicalize(model)
        SetWeights({"m": np.zeros(6)})(finite)
        with pytest.raises(VerificationError, match="differs"):
            check_model(RUNTIME, finite, FEEDS[0], expected)
