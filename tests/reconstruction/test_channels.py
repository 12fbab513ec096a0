"""Damage curves against silenced models, the refit of the smaller model against least squares in float64."""

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

from obs_onnx.allocation.curves import Ranked
from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.criteria.ranking import RemovalDamage, ranking
from obs_onnx.passes.channels.coupling import Coupling, Group
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.stages import Plan
from obs_onnx.reconstruction.channel_curves import Reference, compensated, group_curves
from obs_onnx.reconstruction.channels import solve_alone, solve_channels, spread
from obs_onnx.runtimes import open_runtime

BUDGET = 1 << 28


def squared(dense: np.ndarray, other: np.ndarray) -> float:
    """Squared relative error."""
    return float(np.sum((other - dense) ** 2) / np.sum(dense**2))


def curves(evidence: ChannelStatistics, plan: Plan, x: np.ndarray, **options: object) -> dict[int, Ranked]:
    """Measured on two batches of ``x``."""
    feeds = [{"x": x[:20]}, {"x": x[20:]}]
    outputs = [run_proto(ir.to_proto(evidence.model), feed) for feed in feeds]
    defaults = {
        "rank": ranking("magnitude", evidence),
        "levels": (0.25, 0.5, 0.75),
        "compensate": False,
        "budget": BUDGET,
        "advance": lambda done: None,
    }
    return group_curves(
        open_runtime("onnxruntime", 1),
        evidence,
        plan,
        Reference(feeds, outputs, "error"),
        **defaults | options,
    )


class TestCurves:
    @pytest.mark.parametrize("name", sorted(nets.NETS))
    @pytest.mark.parametrize("compensate", [True, False])
    def test_damage_is_that_of_the_silenced_model(self, name: str, compensate: bool) -> None:
        """Groups that layers alone combine, or normalizations, or products of activations."""
        proto = nets.NETS[name]()
        model, coupling, plan, evidence = opened(proto, nets.data(0, 120, *shape_of(proto)))
        x = nets.data(1, 30, *shape_of(proto))
        found = curves(evidence, plan, x, compensate=compensate)
        assert set(found) == {group.id for group in coupling.groups}
        dense = run_proto(ir.to_proto(model), {"x": x})["y"]
        for group in coupling.groups:
            ranked = found[group.id]
            assert sorted(ranked.order) == list(range(group.n))
            for share, damage in zip(ranked.curve.sparsities, ranked.curve.damages, strict=True):
                keep = np.ones(group.n, bool)
                keep[ranked.order[: round(share * group.n)]] = False
                np.testing.assert_array_equal(ranked.keep(int(keep.sum())), keep)
                tensors = compensated(evidence, evidence.consumers(group), keep, compensate)
                changed = SetWeights(tensors)(silence(model, {group.id: keep}, coupling)).model
                expected = squared(dense, run_proto(ir.to_proto(changed), {"x": x})["y"])
                assert damage == pytest.approx(expected, rel=1e-3, abs=1e-9)

    def test_compensation_lowers_the_damage(self) -> None:
        proto = nets.residual()
        _, _, plan, evidence = opened(proto, nets.data(0, 300, 3, 8, 8))
        x = nets.data(1, 40, 3, 8, 8)
        with_, without = (curves(evidence, plan, x, compensate=flag) for flag in (True, False))
        for group in with_:
            assert sum(with_[group].curve.damages) < sum(without[group].curve.damages)

    def test_what_the_model_around_is_off_by_itself_does_not_count(self) -> None:
        proto = nets.mlp()
        model, _, plan, evidence = opened(proto, nets.data(0, 120, 12))
        x = nets.data(1, 40, 12)
        feeds = [{"x": x}]
        shifted = [{"y": run_proto(ir.to_proto(model), feeds[0])["y"] + np.float32(0.3)}]
        alone = curves(evidence, plan, x)
        found = group_curves(
            open_runtime("onnxruntime", 1),
            evidence,
            plan,
            Reference(feeds, shifted, "error"),
            rank=ranking("magnitude", evidence),
            levels=(0.75,),
            compensate=False,
            budget=BUDGET,
            advance=lambda done: None,
            damaged=True,
        )
        base = squared(shifted[0]["y"], run_proto(ir.to_proto(model), feeds[0])["y"])
        for group, ranked in found.items():
            keep = np.ones(len(ranked.order), bool)
            keep[ranked.order[: round(0.75 * len(ranked.order))]] = False
            changed = run_proto(ir.to_proto(silence(model, {group: keep})), feeds[0])["y"]
            np.testing.assert_array_equal(ranked.order, alone[group].order)
            assert ranked.curve.damages[0] == pytest.approx(
                squared(shifted[0]["y"], changed) - base, rel=1e-3
            )

    @pytest.mark.parametrize("name", ["mlp", "mobile", "transformer"])
    def test_the_oracle_removes_one_at_a_time(self, name: str) -> None:
        proto = nets.transformer(3, 8, 2) if name == "transformer" else nets.NETS[name]()
        model, coupling, plan, evidence = opened(proto, nets.data(0, 60, *shape_of(proto)))
        x = nets.data(1, 30, *shape_of(proto))
        seen: dict[int, np.ndarray] = {}

        def spy(group: Group, damage: RemovalDamage) -> np.ndarray:
            seen[group.id] = ranking("oracle", evidence)(group, damage)
            return seen[group.id]

        found = curves(evidence, plan, x, rank=spy, levels=(0.5,))
        dense = run_proto(ir.to_proto(model), {"x": x})["y"]
        for group in coupling.groups:
            damages = []
            for channel in range(group.n):
                small = model.clone()
                RemoveChannels({group.id: np.arange(group.n) != channel}).call(small)
                damages.append(squared(dense, run_proto(ir.to_proto(small), {"x": x})["y"]))
            np.testing.assert_allclose(seen[group.id], damages, rtol=2e-3, atol=1e-9)
            np.testing.assert_array_equal(found[group.id].order, np.argsort(seen[group.id], kind="stable"))


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
    small, tensors = solve_channels(
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
