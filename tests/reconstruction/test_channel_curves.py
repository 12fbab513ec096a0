"""Damage curves of groups against silenced models."""

from __future__ import annotations

import nets
import numpy as np
import onnx_ir as ir
import pytest
from channel_helpers import opened, shape_of
from nets import run_proto

from obs_onnx.allocation.curves import Ranked
from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.criteria.ranking import RemovalDamage, ranking
from obs_onnx.evaluation.measures.yardstick import yardstick_of
from obs_onnx.passes.channels.coupling import Group
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.stages import Plan
from obs_onnx.reconstruction import channel_curves
from obs_onnx.reconstruction.channel_curves import Reference, compensated, group_curves
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
        Reference(feeds, outputs, yardstick_of(outputs, task="classification")),
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
                tensors = compensated(evidence, evidence.consumers(group), [keep], compensate)[0]
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

    def test_several_levels_at_once_are_each_of_them_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        proto = nets.residual()
        model, coupling, plan, evidence = opened(proto, nets.data(0, 120, 3, 8, 8))
        x = nets.data(1, 40, 3, 8, 8)
        group = coupling.groups[0]
        reading = evidence.consumers(group)
        keeps = [np.arange(group.n) >= count for count in (1, 2, 3)]
        alone = [compensated(evidence, reading, [keep], True)[0] for keep in keeps]
        together = curves(evidence, plan, x)
        monkeypatch.setattr(channel_curves, "_HELD_BYTES", 0)
        for found, expected in zip(compensated(evidence, reading, keeps, True), alone, strict=True):
            assert found.keys() == expected.keys()
            for name, array in found.items():
                assert array.dtype == model.graph.initializers[name].dtype.numpy()
                np.testing.assert_allclose(array, expected[name], rtol=1e-6, atol=1e-7)
        monkeypatch.setattr(channel_curves, "_OUTSIDE_BYTES", 0)
        apart = curves(evidence, plan, x)
        assert {key: one.curve for key, one in apart.items()} == {
            key: one.curve for key, one in together.items()
        }

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
            Reference(feeds, shifted, yardstick_of(shifted, task="classification")),
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
