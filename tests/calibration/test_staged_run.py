"""Data carried through a model stage by stage."""

from __future__ import annotations

import numpy as np
import pytest
from layer_runs import FEEDS, LARGE, RUNTIME, normal, planned, stored

from obs_onnx.calibration.staged_run import StagedRun
from obs_onnx.meter import metered
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.errors import DataError
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.stages import plan_stages
from obs_onnx.runtimes.onnxruntime import OrtRuntime


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


class TestSeveralAtOnce:
    def test_batches_come_in_order_and_are_counted(self, mlp) -> None:
        canonical, _, plan = planned(mlp)
        walk = StagedRun(OrtRuntime(threads=4), plan, FEEDS, LARGE)
        walk.step(canonical)
        run = walk.part(canonical, plan.outputs)
        with metered() as meter:
            found = list(run.each({**batch, "x": batch["x"] + 1} for batch in walk))
        for batch, values in zip(walk, found, strict=True):
            expected = run({**batch, "x": batch["x"] + 1})["y"]
            np.testing.assert_array_equal(values["y"], expected)
        assert {one.name: one.runs for one in meter.costs()}["open"] == len(FEEDS)

    def test_errors_come_out(self, mlp) -> None:
        canonical, _, plan = planned(mlp)
        walk = StagedRun(OrtRuntime(threads=2), plan, FEEDS, LARGE)
        run = walk.part(canonical, plan.outputs)
        with pytest.raises(DataError):
            list(run.each([*FEEDS, {"x": np.zeros((3, 2), np.float32)}]))

    def test_nothing_to_compute(self, mlp) -> None:
        canonical, _, plan = planned(mlp)
        walk = StagedRun(OrtRuntime(threads=2), plan, FEEDS, LARGE)
        run = walk.part(canonical, ["x"])
        assert [values["x"] is feed["x"] for values, feed in zip(run.each(FEEDS), FEEDS, strict=True)]


class TestSmallerModel:
    """A model that lost channels computes some values otherwise, and others not at all."""

    TEXT = """g (float[N,T,6] x) => (float[N,T,3] y) {
        s = Shape(x)  lead = Slice(s, zero, two)  target = Concat <axis = 0> (lead, four)
        a = MatMul(x, w1)  r = Relu(a)  b = MatMul(r, w2)  h = Reshape(b, target)
        i = Relu(h)  y = MatMul(i, w3)
    }"""

    def test_sizes_that_became_constants_are_not_carried(self, make_model, run_model) -> None:
        numbers = {"zero": np.array([0]), "two": np.array([2]), "four": np.array([4])}
        weights = {"w1": normal(1, 6, 5), "w2": normal(2, 5, 4), "w3": normal(3, 4, 3)}
        text = self.TEXT.replace("float[N,T,6]", "float[2,3,6]").replace("[N,T,3]", "[2,3,3]")
        for one in (text, self.TEXT):
            dense = prepare(make_model(one, {**numbers, **weights}))
            coupling, plan = couple(dense), plan_stages(dense, find_layers(dense)[0])
            small = dense.clone()
            RemoveChannels({group.id: np.arange(group.n) > 1 for group in coupling.groups}).call(small)
            feed = {"x": normal(5, 2, 3, 6)}
            walk = StagedRun(RUNTIME, plan, [feed], LARGE)
            for _ in range(len(plan.stages) + 1):
                walk.step(small)
            np.testing.assert_allclose(walk[0]["y"], run_model(small, feed)["y"], rtol=1e-5, atol=1e-6)
