"""Damage curves of layers against models in which one layer is replaced."""

from __future__ import annotations

import pytest
from layer_runs import FEEDS, LARGE, RUNTIME, normal, planned, solved

from obs_onnx.evaluation.measures.output_damage import Damage
from obs_onnx.evaluation.measures.yardstick import yardstick_of
from obs_onnx.reconstruction.layer_curves import damage_curves
from obs_onnx.reconstruction.layers import SolveOptions


class TestDamageCurves:
    @pytest.mark.parametrize("measure", ["error", "kl"])
    def test_equal_the_model_with_that_layer_replaced(self, mlp, run_model, measure: str) -> None:
        canonical, layers, plan = planned(mlp)
        held_out = [{"x": normal(30, 25, 6)}, {"x": normal(31, 7, 6)}]
        options = SolveOptions("magnitude", sequential=False)
        answers = [run_model(mlp, feed) for feed in held_out]
        yardstick = yardstick_of(answers, task="classification", loss=measure)
        curves = damage_curves(
            RUNTIME, canonical, plan, FEEDS, held_out, levels=[0.3, 0.6, 0.9], refinements=0,
            yardstick=yardstick, options=options, budget=LARGE, advance=lambda n: None,
        )  # fmt: skip
        assert set(curves) == {"w1", "w2"}
        for layer in layers:
            curve = curves[layer.name]
            assert curve.size == layer.size
            for share, found in zip(curve.sparsities, curve.damages, strict=True):
                removed = {layer.name: round(share * layer.size)}
                _, alone, _ = solved(mlp, FEEDS, removed, method="magnitude", sequential=False)
                damage = Damage(yardstick, ["y"])
                for feed in held_out:
                    damage.update(run_model(mlp, feed), run_model(alone, feed))
                assert found == pytest.approx(damage.value, rel=1e-4)

    def test_context_and_choice(self, mlp, run_model) -> None:
        canonical, _, plan = planned(mlp)
        _, context, _ = solved(mlp, FEEDS, {"w1": 20}, method="magnitude")
        yardstick = yardstick_of([run_model(mlp, FEEDS[0])])
        curves = damage_curves(
            RUNTIME, canonical, plan, FEEDS, FEEDS[:1], levels=[0.5], refinements=0, yardstick=yardstick,
            options=SolveOptions("magnitude"), budget=LARGE, advance=lambda n: None, context=context,
            chosen=["w2"],
        )  # fmt: skip
        assert set(curves) == {"w2"}
        damages = []
        for count in (15, 0):  # what the context does by itself is not the layer's damage
            _, both, _ = solved(mlp, FEEDS, {"w1": 20, "w2": count}, method="magnitude")
            damage = Damage(yardstick, ["y"])
            damage.update(run_model(mlp, FEEDS[0]), run_model(both, FEEDS[0]))
            damages.append(damage.value)
        assert damages[0] > 2 * damages[1]
        assert curves["w2"].damages[0] == pytest.approx(damages[0] - damages[1], rel=1e-3)
