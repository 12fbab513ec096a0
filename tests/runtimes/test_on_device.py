"""Values of a device, bound as they are; the CPU stands in for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layer_runs import FEEDS, LARGE, RUNTIME, planned
from nets import saved_residual

from obs_onnx import prune
from obs_onnx.calibration.activation_cache import ActivationCache
from obs_onnx.calibration.sequential_moments import SequentialMoments
from obs_onnx.calibration.staged_run import StagedRun
from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.errors import DataError
from obs_onnx.pruning import inputs
from obs_onnx.runtimes.on_device import OnDevice, also
from obs_onnx.runtimes.onnxruntime import OrtSession

HELD = RUNTIME.holding("cpu")


def test_a_runtime_on_the_cpu_holds_nothing_by_itself() -> None:
    assert RUNTIME.device is None
    assert HELD.device == "cpu"


def test_outputs_stay_and_are_inputs_again(mlp) -> None:
    session = HELD.session(serialize(mlp))
    assert isinstance(session, OrtSession)
    found = session.run_bound(FEEDS[0], ["y"])
    assert not isinstance(found.held["y"], np.ndarray)
    np.testing.assert_array_equal(found["y"], RUNTIME.session(serialize(mlp)).run(FEEDS[0])["y"])
    assert found.nbytes == found["y"].nbytes
    again = OnDevice({"x": session.ort.OrtValue.ortvalue_from_numpy(FEEDS[1]["x"], "cpu", 0)})
    np.testing.assert_array_equal(
        session.run_bound(again, ["y"])["y"], session.run_bound(FEEDS[1], ["y"])["y"]
    )
    with pytest.raises(DataError):
        session.run_bound({"x": FEEDS[0]["x"][:, :2]}, ["y"])


def test_values_are_put_together_where_they_are() -> None:
    held = OnDevice({"a": np.zeros(3), "b": np.ones(2)})
    both = also(held, {"b": np.full(4, 2.0)})
    assert isinstance(both, OnDevice)
    assert (list(both), len(both)) == (["a", "b"], 2)
    assert both["b"].shape == (4,)
    assert list(held.only(["b"])) == ["b"]
    assert also({"a": np.zeros(1)}, {"b": np.ones(1)}).keys() == {"a", "b"}


@pytest.mark.parametrize("budget", [0, LARGE])
@pytest.mark.parametrize("paired", [False, True])
def test_moments_are_the_same(mlp, budget: int, paired: bool) -> None:
    dense, _, plan = planned(mlp)
    walks = [
        SequentialMoments(runtime, dense, plan, FEEDS, budget, paired=paired) for runtime in (RUNTIME, HELD)
    ]
    for stage in plan.stages:
        here, there = (walk.observe(stage) for walk in walks)
        for name, moments in here.items():
            np.testing.assert_array_equal(there[name].xx, moments.xx)
            np.testing.assert_array_equal(there[name].xt, moments.xt)
        for walk in walks:
            walk.follow(dense)


def test_nothing_is_copied_here_that_nobody_looks_at(mlp, monkeypatch: pytest.MonkeyPatch) -> None:
    dense, _, plan = planned(mlp)
    looked = list[str]()
    get = OnDevice.__getitem__

    def counted(self: OnDevice, name: str) -> np.ndarray:
        found = get(self, name)
        looked.append(name)
        return found

    monkeypatch.setattr(OnDevice, "__getitem__", counted)
    walk = StagedRun(HELD, plan, FEEDS, LARGE)
    walk.step(dense)
    walk.step(dense)
    opened = len(looked)  # the first batch of each stage says of what type its values are
    assert opened <= 2
    run = walk.part(dense, plan.outputs, ["w2", "b2"])
    weights = {name: dense.graph.initializers[name].const_value.numpy() for name in ("w2", "b2")}
    outputs = list(run.each(also(batch, weights) for batch in walk))
    assert all(isinstance(one, OnDevice) for one in outputs)
    assert len(looked) <= opened + 1


def test_a_cache_counts_what_a_device_holds() -> None:
    cache = ActivationCache(100)
    for _ in range(2):
        cache.append({"a": np.zeros(5)})
    cache.replace(0, OnDevice({"a": np.ones(6)}))
    assert isinstance(cache[0], OnDevice)
    cache.replace(1, OnDevice({"a": np.full(8, 3.0)}))
    assert not isinstance(cache[1], OnDevice)
    np.testing.assert_array_equal(cache[1]["a"], 3.0)
    cache.replace(0, {"a": np.zeros(2)})
    cache.replace(1, OnDevice({"a": np.full(8, 4.0)}))
    assert isinstance(cache[1], OnDevice)
    np.testing.assert_array_equal(cache[0]["a"], 0.0)


@pytest.mark.parametrize(
    "options",
    [{"targets": {"macs": 0.5}}, {"mode": "weights", "targets": {"sparsity": 0.6}}],
    ids=["channels", "weights"],
)
def test_a_run_gives_the_same(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, fast = saved_residual(tmp_path), {"effort": "quick", "threads": 1, "latency": False}
    here = prune(model, **fast, **options)
    monkeypatch.setattr(inputs, "calibration_runtime", lambda *_: HELD)
    there = prune(model, **fast, **options)
    assert serialize(there.model) == serialize(here.model)
