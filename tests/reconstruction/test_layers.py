"""Walks, damage and solutions, against direct evaluation and explicit least squares in float64."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.calibration.activation_cache import ActivationCache
from obs_onnx.calibration.staged_run import StagedRun
from obs_onnx.evaluation.output_damage import Damage, choose_measure
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import OptionError
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.stages import plan_stages
from obs_onnx.reconstruction.layer_curves import damage_curves
from obs_onnx.reconstruction.layers import SolveOptions, solve_layers
from obs_onnx.runtimes import open_runtime

RUNTIME = open_runtime(threads=1)
LARGE = 1 << 30


def normal(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def stored(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy().astype(np.float64)


def planned(model: ir.Model):
    canonical = canonicalize(model)
    layers, _ = find_layers(canonical)
    return canonical, layers, plan_stages(canonical, layers)


def solved(model, feeds, removed, *, budget=LARGE, **options):
    canonical, _, plan = planned(model)
    settings = SolveOptions(**options)
    pruned, results = solve_layers(
        RUNTIME, canonical, plan, feeds, removed, options=settings, budget=budget, advance=lambda n: None
    )
    return canonical, pruned, results


@pytest.fixture
def mlp(make_model) -> ir.Model:
    return make_model(
        "g (float[N,6] x) => (float[N,3] y) { a = Gemm(x, w1, b1) r = Relu(a) y = Gemm(r, w2, b2) }",
        {"w1": normal(1, 6, 10), "b1": normal(2, 10), "w2": normal(3, 10, 3), "b2": normal(4, 3)},
    )


FEEDS = [{"x": normal(seed, 40, 6)} for seed in (20, 21, 22)]


class TestActivations:
    @pytest.mark.parametrize("budget", [0, 100, LARGE])
    def test_values_stay_what_they_are(self, budget: int) -> None:
        held = ActivationCache(budget)
        arrays = [
            {"a": normal(0, 3, 4), "b": np.arange(5), "c": np.array(2.5), "d": np.zeros((0, 3))},
            {"a": normal(1, 7, 4).astype(np.float16), "b": np.array([True, False])},
        ]
        for values in arrays:
            held.append(values)
        assert len(held) == 2
        for values, expected in zip(held, arrays, strict=True):
            assert set(values) == set(expected)
            for name, array in expected.items():
                assert values[name].dtype == array.dtype
                np.testing.assert_array_equal(values[name], array)
        spilled = [isinstance(array, np.memmap) for values in held for array in values.values()]
        assert any(spilled) == (budget < LARGE)

    def test_what_stays_is_not_written_again_and_what_goes_makes_room(self) -> None:
        held = ActivationCache(100)
        held.append({"a": np.zeros(10), "b": np.ones(10)})
        assert [isinstance(array, np.memmap) for array in held[0].values()] == [False, True]
        kept = held[0]["b"]
        held.replace(0, {"b": kept, "c": np.full(10, 2.0)})
        assert held[0]["b"] is kept
        assert not isinstance(held[0]["c"], np.memmap)
        assert set(held[0]) == {"b", "c"}


class TestWalk:
    @pytest.mark.parametrize("budget", [0, LARGE])
    def test_boundaries_and_taps(self, mlp, run_model, budget: int) -> None:
        canonical, _, plan = planned(mlp)
        walk = StagedRun(RUNTIME, plan, FEEDS, budget)
        walk.step(canonical)
        assert (walk.index, set(walk[0])) == (0, {"x"})
        seen = {}

        def visit(number, before, tapped) -> None:
            seen[number] = (dict(before), dict(tapped))

        walk.step(canonical, ["a", "x"], visit)
        assert (walk.index, set(walk[0])) == (1, {"r"})
        for number, feed in enumerate(FEEDS):
            expected = feed["x"] @ stored(mlp, "w1") + stored(mlp, "b1")
            before, tapped = seen[number]
            assert set(before) == {"x"}
            np.testing.assert_array_equal(tapped["x"], feed["x"])
            np.testing.assert_allclose(tapped["a"], expected, rtol=1e-5, atol=1e-5)
        walk.step(canonical)
        assert len(walk) == 3
        for values, feed in zip(walk, FEEDS, strict=True):
            np.testing.assert_allclose(values["y"], run_model(mlp, feed)["y"], rtol=1e-5, atol=1e-5)

    def test_a_part_takes_weights_from_outside(self, mlp, run_model) -> None:
        canonical, _, plan = planned(mlp)
        walk = StagedRun(RUNTIME, plan, FEEDS, LARGE)
        walk.step(canonical)
        run = walk.part(canonical, plan.outputs, ["w2", "b2"])
        changed = canonical.clone()
        SetWeights({"w2": normal(9, 10, 3), "b2": normal(8, 3)})(changed)
        actual = run({**walk[1], "w2": normal(9, 10, 3), "b2": normal(8, 3)})
        np.testing.assert_allclose(actual["y"], run_model(changed, FEEDS[1])["y"], rtol=1e-5, atol=1e-5)


class TestDamage:
    def test_error(self) -> None:
        y, z = normal(0, 10, 4), normal(1, 10, 4)
        damage = Damage("error", ["y", "i"])
        for rows in (slice(0, 3), slice(3, 10)):
            damage.update({"y": y[rows], "i": np.arange(3)}, {"y": z[rows], "i": np.arange(3) + 1})
        assert damage.value == pytest.approx(((z - y) ** 2).sum() / (y**2).sum(), rel=1e-5)

    def test_kl(self) -> None:
        y, z = normal(0, 10, 4).astype(np.float64), normal(1, 10, 4).astype(np.float64)
        p, q = (np.exp(s) / np.exp(s).sum(axis=1, keepdims=True) for s in (y, z))
        expected = (p * np.log(p / q)).sum(axis=1).mean()
        for dense, changed in ((y, z), (p, q), (y + 5, z - 3)):
            damage = Damage("kl", ["y"])
            damage.update({"y": dense}, {"y": changed})
            assert damage.value == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("measure", ["kl", "error"])
    def test_masked_scores_count_for_nothing(self, measure: str) -> None:
        y, z = normal(0, 10, 4), normal(1, 10, 4)
        masked = np.concatenate([np.full((10, 1), -np.inf, np.float32), y], axis=1)
        other = np.concatenate([np.full((10, 1), -np.inf, np.float32), z], axis=1)
        values = []
        for a, b in ((y, z), (masked, other), (masked, masked)):
            damage = Damage(measure, ["y"])
            damage.update({"y": a}, {"y": b})
            values.append(damage.value)
        assert values[1] == pytest.approx(values[0], rel=1e-6)
        assert values[2] == 0

    def test_outputs_weigh_the_same_and_class_numbers_count_if_they_must(self) -> None:
        damage = Damage("error", ["a", "b"])
        damage.update(
            {"a": np.ones(4), "b": 100 * np.ones(4)}, {"a": np.ones(4) * 1.1, "b": 100 * np.ones(4)}
        )
        assert damage.value == pytest.approx(0.01 / 2)
        damage = Damage("changed", ["i"])
        damage.update({"i": np.array([1, 2, 3, 4])}, {"i": np.array([1, 2, 0, 0])})
        assert damage.value == 0.5
        assert Damage("error", ["a"]).value == 0

    def test_choice(self) -> None:
        scores, image = {"y": normal(0, 3, 5)}, {"y": normal(0, 3, 5, 2, 2)}
        assert choose_measure("auto", scores) == "kl"
        assert choose_measure("auto", image) == "error"
        assert choose_measure("auto", {**scores, "z": normal(0, 3, 5)}) == "error"
        assert choose_measure("auto", {**scores, "i": np.arange(3)}) == "kl"
        assert choose_measure("error", scores) == "error"
        assert choose_measure("auto", {"i": np.arange(3)}) == choose_measure("error", {"i": np.arange(3)})
        with pytest.raises(OptionError, match="unknown"):
            choose_measure("l1", scores)
        with pytest.raises(OptionError, match="class scores"):
            choose_measure("kl", image)


class TestDamageCurves:
    @pytest.mark.parametrize("measure", ["error", "kl"])
    def test_equal_the_model_with_that_layer_replaced(self, mlp, run_model, measure: str) -> None:
        canonical, layers, plan = planned(mlp)
        held_out = [{"x": normal(30, 25, 6)}, {"x": normal(31, 7, 6)}]
        options = SolveOptions("magnitude", sequential=False)
        curves = damage_curves(
            RUNTIME, canonical, plan, FEEDS, held_out, levels=[0.3, 0.6, 0.9], refinements=0, measure=measure,
            options=options, budget=LARGE, advance=lambda n: None,
        )  # fmt: skip
        assert set(curves) == {"w1", "w2"}
        for layer in layers:
            curve = curves[layer.name]
            assert curve.size == layer.size
            for share, found in zip(curve.sparsities, curve.damages, strict=True):
                removed = {layer.name: round(share * layer.size)}
                _, alone, _ = solved(mlp, FEEDS, removed, method="magnitude", sequential=False)
                damage = Damage(measure, ["y"])
                for feed in held_out:
                    damage.update(run_model(mlp, feed), run_model(alone, feed))
                assert found == pytest.approx(damage.value, rel=1e-4)

    def test_context_and_choice(self, mlp, run_model) -> None:
        canonical, _, plan = planned(mlp)
        _, context, _ = solved(mlp, FEEDS, {"w1": 20}, method="magnitude")
        curves = damage_curves(
            RUNTIME, canonical, plan, FEEDS, FEEDS[:1], levels=[0.5], refinements=0, measure="error",
            options=SolveOptions("magnitude"), budget=LARGE, advance=lambda n: None, context=context,
            chosen=["w2"],
        )  # fmt: skip
        assert set(curves) == {"w2"}
        damages = []
        for count in (15, 0):  # what the context does by itself is not the layer's damage
            _, both, _ = solved(mlp, FEEDS, {"w1": 20, "w2": count}, method="magnitude")
            damage = Damage("error", ["y"])
            damage.update(run_model(mlp, FEEDS[0]), run_model(both, FEEDS[0]))
            damages.append(damage.value)
        assert damages[0] > 2 * damages[1]
        assert curves["w2"].damages[0] == pytest.approx(damages[0] - damages[1], rel=1e-3)


CASES = {
    "gemm": "a = Gemm<alpha = 0.5, beta = 2.0>(x, w, b) r = Relu(a) y = MatMul(r, v)",
    "transposed": (
        "t = Transpose<perm = [1, 0]>(x) a = Gemm<transA = 1, transB = 1>(t, w, b) r = Relu(a)"
        " y = MatMul(r, v)"
    ),
    "matmul and add": "p = MatMul(x, w) a = Add(b, p) r = Relu(a) y = MatMul(r, v)",
    "no bias": "a = MatMul(x, w) r = Relu(a) y = MatMul(r, v)",
    "beta 0": "a = Gemm<beta = 0.0>(x, w, b) r = Relu(a) y = MatMul(r, v)",
    "shared": "a = MatMul(x, w) r = Tanh(a) c = MatMul(r, w) y = MatMul(c, v)",
    "residual": (
        "p = MatMul(x, u) q = Gemm(x, w, b) r = Relu(q) s = MatMul(r, u) a = Add(s, p) y = MatMul(a, v)"
    ),
    "linear chain": "a = Gemm(x, w, b) c = MatMul(a, u) y = MatMul(c, v)",
}


class TestSolveLayers:
    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("sequential", [True, False])
    @pytest.mark.parametrize("dtype", ["float", "double"])
    def test_nothing_removed_changes_nothing(self, make_model, run_model, case, sequential, dtype) -> None:
        kind = {"float": np.float32, "double": np.float64}[dtype]
        used = set(re.findall(r"\b[wbvu]\b", CASES[case]))
        tensors = {"w": normal(0, 6, 6), "b": normal(1, 6), "v": normal(2, 6, 3), "u": normal(3, 6, 6)}
        tensors = {name: array.astype(kind) for name, array in tensors.items() if name in used}
        model = make_model(f"g ({dtype}[N,6] x) => ({dtype}[N,3] y) {{ {CASES[case]} }}", tensors)
        feeds = [{"x": feed["x"].astype(kind)} for feed in FEEDS]
        _, pruned, _ = solved(model, feeds, {}, sequential=sequential)
        for feed in feeds:
            y = run_model(model, feed)["y"]
            tolerance = (1e-4 if dtype == "float" else 1e-9) * np.abs(y).max()
            np.testing.assert_allclose(run_model(pruned, feed)["y"], y, rtol=0, atol=tolerance)

    def test_least_squares_on_the_pruned_prefix(self, mlp) -> None:
        canonical, pruned, results = solved(
            mlp, FEEDS, {"w1": 40, "w2": 12}, method="magnitude", damping=1e-9
        )
        x = np.concatenate([feed["x"] for feed in FEEDS]).astype(np.float64)
        relu = lambda w, b: np.maximum(x @ w + b, 0)  # noqa: E731
        before = relu(stored(canonical, "w1"), stored(canonical, "b1"))
        after = relu(stored(pruned, "w1"), stored(pruned, "b1"))
        target = before @ stored(canonical, "w2") + stored(canonical, "b2")
        assert int((stored(pruned, "w2") == 0).sum()) == 12
        for column in range(3):
            support = np.flatnonzero(stored(pruned, "w2")[:, column])
            design = np.column_stack([after[:, support], np.ones(len(after))])
            best, *_ = np.linalg.lstsq(design, target[:, column], rcond=None)
            np.testing.assert_allclose(stored(pruned, "w2")[support, column], best[:-1], rtol=1e-3, atol=1e-4)
            assert stored(pruned, "b2")[column] == pytest.approx(best[-1], rel=1e-3, abs=1e-4)
        rest = target - after @ stored(pruned, "w2") - stored(pruned, "b2")
        energy = ((target - target.mean(axis=0)) ** 2).sum()
        assert results["w2"].solution.error == pytest.approx((rest**2).sum() / energy, rel=1e-3)

    def test_a_skip_is_part_of_the_target(self, make_model) -> None:
        tensors = {"wp": normal(0, 6, 5), "wa": normal(1, 6, 8), "wb": normal(2, 8, 5)}
        model = make_model(
            "g (float[N,6] x) => (float[N,5] y)"
            "{ p = MatMul(x, wp) a = MatMul(x, wa) r = Relu(a) b = MatMul(r, wb) y = Add(b, p) }",
            tensors,
        )
        removed = {"wp": 15, "wa": 24, "wb": 20}
        canonical, pruned, _ = solved(model, FEEDS, removed, method="magnitude", damping=1e-9)
        x = np.concatenate([feed["x"] for feed in FEEDS]).astype(np.float64)
        r = np.maximum(x @ stored(pruned, "wa"), 0)
        dense = np.maximum(x @ stored(canonical, "wa"), 0) @ stored(canonical, "wb")
        target = dense + x @ stored(canonical, "wp") - x @ stored(pruned, "wp")
        for column in range(5):
            support = np.flatnonzero(stored(pruned, "wb")[:, column])
            best, *_ = np.linalg.lstsq(r[:, support], target[:, column], rcond=None)
            np.testing.assert_allclose(stored(pruned, "wb")[support, column], best, rtol=1e-3, atol=1e-4)
        for name, count in removed.items():
            assert int((stored(pruned, name) == 0).sum()) == count

    def test_a_shared_weight_is_solved_for_all_its_uses(self, make_model) -> None:
        model = make_model(
            "g (float[N,6] x, float[N,6] z) => (float[N,4] y)"
            "{ a = MatMul(x, w) b = MatMul(z, w) y = Sub(a, b) }",
            {"w": normal(0, 6, 4)},
        )
        feeds = [{"x": normal(5, 50, 6), "z": 3 * normal(6, 50, 6) + 1}]
        canonical, pruned, _ = solved(model, feeds, {"w": 10}, method="magnitude", damping=1e-9)
        x = np.concatenate([feeds[0]["x"], feeds[0]["z"]]).astype(np.float64)
        for column in range(4):
            support = np.flatnonzero(stored(pruned, "w")[:, column])
            target = x @ stored(canonical, "w")[:, column]
            best, *_ = np.linalg.lstsq(x[:, support], target, rcond=None)
            np.testing.assert_allclose(stored(pruned, "w")[support, column], best, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("method", ["obs", "admm", "lobs", "magnitude", "random", "auto"])
    def test_exact_counts_and_untouched_inputs(self, mlp, method: str) -> None:
        before = ir.to_proto(canonicalize(mlp)).SerializeToString(deterministic=True)
        canonical, pruned, results = solved(mlp, FEEDS, {"w1": 37, "w2": 11}, method=method)
        assert ir.to_proto(canonical).SerializeToString(deterministic=True) == before
        for name, count in (("w1", 37), ("w2", 11)):
            assert int((stored(pruned, name) == 0).sum()) == count
            assert int((~results[name].solution.mask).sum()) == count

    def test_without_compensation_kept_weights_and_their_error_are_the_dense_ones(self, mlp) -> None:
        canonical, pruned, results = solved(
            mlp, FEEDS, {"w1": 30}, method="obs", compensate=False, sequential=False, damping=0.0
        )
        after, before = stored(pruned, "w1"), stored(canonical, "w1")
        np.testing.assert_array_equal(after, np.where(after == 0, 0, before))
        np.testing.assert_array_equal(stored(pruned, "b1"), stored(canonical, "b1"))
        assert set(results) == {"w1"}
        np.testing.assert_allclose(results["w1"].solution.w[0].T, after, rtol=1e-6)
        x = np.concatenate([feed["x"] for feed in FEEDS]).astype(np.float64)
        x -= x.mean(axis=0)
        expected = ((x @ (after - before)) ** 2).sum() / ((x @ before) ** 2).sum()
        assert results["w1"].solution.error == pytest.approx(expected, rel=1e-5)

    def test_memory_does_not_matter(self, mlp) -> None:
        pruned = [solved(mlp, FEEDS, {"w1": 30, "w2": 9}, budget=budget)[1] for budget in (0, LARGE)]
        for name in ("w1", "b1", "w2", "b2"):
            np.testing.assert_array_equal(stored(pruned[0], name), stored(pruned[1], name))

    def test_grouped_convolution(self, make_model, run_model) -> None:
        model = make_model(
            "g (float[N,4,6,6] x) => (float[N,6,6,6] y){ y = Conv<group = 2, pads = [1, 1, 1, 1]>(x, w, b) }",
            {"w": normal(0, 6, 2, 3, 3), "b": normal(1, 6)},
        )
        feeds = [{"x": normal(2, 8, 4, 6, 6)}]
        canonical, same, _ = solved(model, feeds, {})
        y = run_model(model, feeds[0])["y"]
        np.testing.assert_allclose(run_model(same, feeds[0])["y"], y, rtol=0, atol=1e-4)
        _, pruned, results = solved(model, feeds, {"w": 54}, method="magnitude", damping=1e-9)
        assert int((stored(pruned, "w") == 0).sum()) == 54
        rest = run_model(pruned, feeds[0])["y"].astype(np.float64) - y
        centred = y - y.mean(axis=(0, 2, 3), keepdims=True)
        assert results["w"].solution.error == pytest.approx((rest**2).sum() / (centred**2).sum(), rel=1e-3)
        np.testing.assert_allclose(rest.mean(axis=(0, 2, 3)), 0, atol=1e-5)
        assert stored(canonical, "w").all()
