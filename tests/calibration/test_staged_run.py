"""Data carried through a model stage by stage."""

from __future__ import annotations

import numpy as np
import pytest
from layer_runs import FEEDS, LARGE, RUNTIME, normal, planned, stored

from obs_onnx.calibration.staged_run import StagedRun
from obs_onnx.passes.graph.set_weights import SetWeights


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
