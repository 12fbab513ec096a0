"""Solved layers against explicit least squares in float64."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest
from layer_runs import FEEDS, LARGE, normal, solved, stored

from obs_onnx.passes.canonical.canonicalize import canonicalize

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
