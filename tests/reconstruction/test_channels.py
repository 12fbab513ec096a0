"""The refit of the smaller model against least squares in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_helpers import named, opened, shape_of, tensors_of
from nets import run_proto

from obs_onnx.calibration import sequential_moments
from obs_onnx.passes.channels.coupling import Coupling, Group
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.reconstruction.channels import Refitted, solve_alone, solve_channels, spread
from obs_onnx.runtimes import open_runtime

BUDGET = 1 << 28


def squared(dense: np.ndarray, other: np.ndarray) -> float:
    """Squared relative error."""
    return float(np.sum((other - dense) ** 2) / np.sum(dense**2))


def least_squares(x: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias that give ``t``."""
    ones = np.ones((len(x), 1))
    solution, *_ = np.linalg.lstsq(np.hstack([x, ones]).astype(np.float64), t.astype(np.float64), rcond=None)
    return solution[:-1], solution[-1]


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def solved(
    proto: onnx.ModelProto, x: np.ndarray, choose: Callable[[Group], np.ndarray], **options: object
) -> tuple[ir.Model, Coupling, dict[int, np.ndarray], ir.Model, dict[str, np.ndarray]]:
    model, coupling, plan, _ = opened(proto, x)
    keep = {group.id: choose(group) for group in coupling.groups}
    feeds = [{"x": x[first : first + 64]} for first in range(0, len(x), 64)]
    defaults = {"fixed": (), "damping": 0.0, "budget": BUDGET, "advance": lambda done: None}
    small, tensors, *_ = solve_channels(
        open_runtime("onnxruntime", 1), coupling, plan, feeds, keep, **defaults | options
    )
    return model, coupling, keep, small, tensors


def most(group: Group) -> np.ndarray:
    return np.random.default_rng(group.id).permutation(group.n) >= group.n // 3


class TestSolution:
    def test_linear_layers_equal_least_squares_on_what_the_smaller_model_gives(self, make_proto) -> None:
        """With Tanh between the layers the targets are the dense outputs and nothing else."""
        rng = np.random.default_rng(0)
        text = (
            "g (float[N,12] x) => (float[N,5] y) { a = Gemm(x, w1, b1) r = Tanh(a)"
            " c = Gemm(r, w2, b2) s = Tanh(c) y = Gemm(s, w3, b3) }"
        )
        sizes, tensors = (12, 24, 18, 5), {}
        for number, (i, o) in enumerate(itertools.pairwise(sizes), 1):
            tensors[f"w{number}"] = rng.normal(0, i**-0.5, (i, o)).astype(np.float32)
            tensors[f"b{number}"] = rng.normal(0, 0.1, o).astype(np.float32)
        x = nets.data(0, 300, 12)
        _, coupling, keep, small, _ = solved(make_proto(text, tensors), x, most)
        first = keep[named(coupling, "w1[1]").id]
        second = keep[named(coupling, "w2[1]").id]
        a = x @ tensors["w1"] + tensors["b1"]
        c = np.tanh(a) @ tensors["w2"] + tensors["b2"]
        y = np.tanh(c) @ tensors["w3"] + tensors["b3"]
        after = tensors_of(small)
        np.testing.assert_allclose(after["w1"], tensors["w1"][:, first], atol=1e-4)
        r = np.tanh(x @ after["w1"] + after["b1"])
        w2, b2 = least_squares(r, c[:, second])
        np.testing.assert_allclose(after["w2"], w2, atol=2e-4)
        np.testing.assert_allclose(after["b2"], b2, atol=2e-4)
        s = np.tanh(r @ after["w2"] + after["b2"])
        w3, b3 = least_squares(s, y)
        np.testing.assert_allclose(after["w3"], w3, atol=2e-4)
        np.testing.assert_allclose(after["b3"], b3, atol=2e-4)

    def test_a_skip_connection_is_corrected_too(self, make_proto) -> None:
        """The last layer before an addition makes up for what the skip has lost."""
        rng = np.random.default_rng(1)
        text = (
            "g (float[N,12] x) => (float[N,6] y) { a = Gemm(x, w1, b1) r = Tanh(a) k = Gemm(r, w2, b2)"
            " c = Gemm(x, w3, b3) s = Tanh(c) d = Gemm(s, w4, b4) y = Add(d, k) }"
        )
        shapes = {"1": (12, 16), "2": (16, 6), "3": (12, 24), "4": (24, 6)}
        tensors = {}
        for number, (i, o) in shapes.items():
            tensors[f"w{number}"] = rng.normal(0, i**-0.5, (i, o)).astype(np.float32)
            tensors[f"b{number}"] = rng.normal(0, 0.1, o).astype(np.float32)
        x = nets.data(0, 300, 12)
        proto = make_proto(text, tensors)
        small = solved(proto, x, most)[3]
        after, y = tensors_of(small), run_proto(proto, {"x": x})["y"]
        short = np.tanh(x @ after["w1"] + after["b1"]) @ after["w2"] + after["b2"]
        s = np.tanh(x @ after["w3"] + after["b3"])
        w4, b4 = least_squares(s, y - short)
        np.testing.assert_allclose(after["w4"], w4, atol=3e-4)
        np.testing.assert_allclose(after["b4"], b4, atol=3e-4)

    def test_damping_that_was_chosen_before_is_taken(self, make_proto, monkeypatch) -> None:
        rng = np.random.default_rng(2)
        w1, w2 = (rng.normal(0, 0.3, shape).astype(np.float32) for shape in ((12, 24), (24, 5)))
        text = "g (float[N,12] x) => (float[N,5] y) { a = MatMul(x, w1) r = Tanh(a) y = MatMul(r, w2) }"
        x = nets.data(0, 40, 12)
        _, coupling, plan, _ = opened(make_proto(text, {"w1": w1, "w2": w2}), x)
        keep = {group.id: most(group) for group in coupling.groups}
        feeds = [{"x": x[:20]}, {"x": x[20:]}]

        def refit(chosen: dict[str, float] | None) -> Refitted:
            return solve_channels(
                open_runtime("onnxruntime", 1),
                coupling,
                plan,
                feeds,
                keep,
                fixed=(),
                damping=1e-6,
                budget=BUDGET,
                advance=lambda done: None,
                chosen=chosen,
            )

        first = refit(None)
        assert min(first.damping.values()) >= 1e-6
        monkeypatch.setattr(sequential_moments, "cross_validated", None)
        again = refit(dict(first.damping))
        assert again.damping == first.damping
        for name, w in first.tensors.items():
            np.testing.assert_allclose(again.tensors[name], w, rtol=1e-4, atol=1e-6)
        strong = refit(dict.fromkeys(first.damping, 10.0))
        assert np.abs(strong.tensors["w2"] - first.tensors["w2"]).max() > 1e-3

    def test_a_step_behind_relu_never_makes_it_worse(self) -> None:
        """What the next layer sees is as close to the dense values as after a refit to the sums alone."""
        x = nets.data(0, 400, 12)
        proto = nets.mlp()
        model, coupling, keep, small, _ = solved(proto, x, most)
        dense, after = tensors_of(model), tensors_of(small)
        second = keep[named(coupling, "fc2.weight[0]").id]
        r1 = relu(x @ dense["fc1.weight"].T + dense["fc1.bias"])
        sums = r1 @ dense["fc2.weight"].T + dense["fc2.bias"]
        r = relu(x @ after["fc1.weight"].T + after["fc1.bias"])
        w, b = least_squares(r, sums[:, second])
        plain, found = relu(r @ w + b), relu(r @ after["fc2.weight"].T + after["fc2.bias"])
        wanted = relu(sums[:, second])
        assert squared(wanted, found) <= squared(wanted, plain) * 1.001

    def test_fixed_layers_stay(self) -> None:
        x = nets.data(0, 200, 12)
        model, coupling, keep, small, tensors = solved(nets.mlp(), x, most, fixed=["fc2.weight"])
        cut = model.clone()
        RemoveChannels(keep).call(cut)
        for name in ("fc2.weight", "fc2.bias"):
            np.testing.assert_array_equal(tensors_of(small)[name], tensors_of(cut)[name])
            assert name not in tensors
        assert not np.array_equal(tensors_of(small)["fc3.weight"], tensors_of(cut)["fc3.weight"])
        assert coupling.model is model

    @pytest.mark.parametrize("name", sorted(nets.NETS))
    def test_spreading_is_the_inverse_of_removal(self, name: str) -> None:
        proto = nets.NETS[name]()
        x = nets.data(0, 100, *shape_of(proto))
        model, coupling, keep, small, tensors = solved(proto, x, most)
        assert tensors
        wide = spread(coupling, keep, tensors)
        again = SetWeights(wide)(model.clone()).model
        before = tensors_of(model)
        for key, array in wide.items():
            assert array.shape == before[key].shape
        RemoveChannels(keep).call(again)
        found, expected = tensors_of(again), tensors_of(small)
        assert set(found) == set(expected)
        for key, array in expected.items():
            np.testing.assert_array_equal(found[key], array)

    def test_spreading_leaves_the_places_of_what_is_gone(self) -> None:
        model, coupling, keep, _, tensors = solved(nets.mlp(), nets.data(0, 100, 12), most)
        first, second = (keep[group.id] for group in coupling.groups)
        wide, before = spread(coupling, keep, tensors)["fc2.weight"], tensors_of(model)["fc2.weight"]
        gone = ~np.outer(second, first)
        np.testing.assert_array_equal(wide[gone], before[gone])
        assert (wide[~gone] != before[~gone]).mean() > 0.9

    def test_alone(self) -> None:
        """Without order every reader is refitted on the dense model's inputs, once for all of its groups."""
        x = nets.data(0, 300, 12)
        model, coupling, _, evidence = opened(nets.mlp(), x, damping=0.0)
        keep = {group.id: most(group) for group in coupling.groups}
        tensors, dense = solve_alone(evidence, keep), tensors_of(model)
        first = keep[named(coupling, "fc1.weight[0]").id]
        assert set(tensors) == {"fc2.weight", "fc2.bias", "fc3.weight", "fc3.bias"}
        r = relu(x @ dense["fc1.weight"].T + dense["fc1.bias"])
        t = r @ dense["fc2.weight"].T + dense["fc2.bias"]
        w, b = least_squares(r[:, first], t)
        np.testing.assert_array_equal(tensors["fc2.weight"][:, ~first], 0)
        np.testing.assert_allclose(tensors["fc2.weight"][:, first].T, w, atol=1e-3)
        np.testing.assert_allclose(tensors["fc2.bias"], b, atol=1e-3)


class TestRowsThatGo:
    """Learnt tokens are joined with others of a varying number, and a layer runs over all of them as rows."""

    TEXT = """g (float[N,T,5] x) => (float[N,2,4] y) {
        h = MatMul(x, a)  s = Shape(h)  n = Slice(s, zero, one)  es = Concat <axis = 0> (n, one, one)
        e = Expand(learnt, es)  c = Concat <axis = 1> (e, h)
        cs = Shape(c)  f = Reshape(c, flat)  g1 = MatMul(f, b)  g2 = Relu(g1)  g3 = MatMul(g2, d)
        r = Reshape(g3, cs)  z = MatMul(r, w)  y = Slice(z, zero, two, one)
    }"""

    def test_the_layers_over_them_stay_as_they_are(self) -> None:
        random = np.random.default_rng(0)
        shapes = {"a": (5, 6), "learnt": (1, 4, 6), "b": (6, 8), "d": (8, 6), "w": (6, 4)}
        weights = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        numbers = {"zero": [0], "one": [1], "two": [2], "flat": [-1, 6]}
        proto = nets.build_model(self.TEXT, {**weights, **{k: np.array(v) for k, v in numbers.items()}})
        x = random.standard_normal((64, 9, 5)).astype(np.float32)
        _, coupling, plan, _ = opened(proto, x)
        tokens = next(group for group in coupling.groups if ("learnt", 1) in group.sites)
        keep = {tokens.id: np.arange(tokens.n) != 1}
        small, tensors, *_ = solve_channels(
            open_runtime("onnxruntime", 1),
            coupling,
            plan,
            [{"x": x[:32]}, {"x": x[32:]}],
            keep,
            fixed=(),
            damping=1e-3,
            budget=BUDGET,
            advance=lambda done: None,
        )
        assert not {"b", "d"} & set(tensors)
        for length in (9, 3, 30):
            x = random.standard_normal((3, length, 5)).astype(np.float32)
            assert run_proto(ir.to_proto(small), {"x": x})["y"].shape == (3, 2, 4)
