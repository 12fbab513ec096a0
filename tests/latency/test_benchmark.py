"""The measuring procedure, driven by sessions whose time is known."""

from __future__ import annotations

import os
from typing import ClassVar

import numpy as np
import pytest
from onnx import TensorProto, helper

from obs_onnx.data.feeds import TensorSpec
from obs_onnx.latency.benchmark import bench
from obs_onnx.passes.errors import DataError, ModelError, OptionError

CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None  # before anything is pinned


class Pretend:
    """A session that claims to have taken given seconds, and writes down who was asked when."""

    inputs = (TensorSpec("x", ("N", 2), np.dtype(np.float32)),)
    outputs = ()
    asked: ClassVar[list[str]] = []

    def __init__(self, name: str, seconds) -> None:
        self.name = name
        self.seconds = seconds
        self.calls = 0

    def run(self, feed, outputs=None):
        raise AssertionError("timing must not run the slow way")

    def time(self, feed, runs):
        Pretend.asked.append(self.name)
        times = []
        for number in range(runs):
            times.append(self.seconds(self.calls, number) if callable(self.seconds) else self.seconds)
            self.calls += 1
        return times


@pytest.fixture(autouse=True)
def forget():
    Pretend.asked = []


def relu(kind: int = TensorProto.FLOAT, size: int | str = 2) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, ["N", size])],
        [helper.make_tensor_value_info("y", kind, ["N", size])],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()


def test_medians_and_ratios():
    result = bench([Pretend("a", 0.002), Pretend("b", 0.001)], threads=1, seconds=0.01, min_runs=20)
    assert [latency.median for latency in result.latencies] == pytest.approx([2.0, 1.0])
    assert [(ratio.low, ratio.value, ratio.high) for ratio in result.ratios] == [(1, 1, 1), (0.5, 0.5, 0.5)]
    assert all(latency.runs >= 20 for latency in result.latencies)
    assert set(result.latencies[0].to_json()) == {"median", "p10", "p90", "runs", "low", "high"}
    rows = result.rows(["a", "b"])
    assert [(row["model"], row["ratio"], row["threads"]) for row in rows] == [("a", 1.0, 1), ("b", 0.5, 1)]


def test_quantiles():
    latency = bench([Pretend("a", lambda call, _: 1e-3 * (call % 11 + 1))], seconds=0.05).latencies[0]
    assert 1 <= latency.p10 <= 3
    assert 5 <= latency.median <= 7
    assert 9 <= latency.p90 <= 11
    assert latency.p10 < latency.low <= latency.median <= latency.high < latency.p90


def test_models_take_turns_in_alternating_order():
    bench([Pretend("a", 0.01), Pretend("b", 0.01)], threads=1, seconds=0.01, min_runs=12)
    turns = "".join(Pretend.asked)
    assert "abbaabbaab" in turns


def test_the_run_after_a_change_is_thrown_away():
    models = [Pretend("a", lambda _, number: 5.0 if number == 0 else 0.001), Pretend("b", 0.001)]
    result = bench(models, threads=1, seconds=0.01, min_runs=10)
    assert result.latencies[0].p90 == pytest.approx(1.0)
    assert result.ratios[1].value == pytest.approx(1.0)


def test_warm_up_is_not_counted():
    result = bench([Pretend("a", lambda call, _: 0.5 if call < 10 else 0.001)], threads=1, seconds=0.05)
    assert result.latencies[0].p90 == pytest.approx(1.0)


def test_drift_hits_both_models_alike():
    clock = {"runs": 0}

    def slower_and_slower(scale):
        def seconds(*_):
            clock["runs"] += 1
            return scale * (1 + clock["runs"] / 100)

        return seconds

    models = [Pretend("a", slower_and_slower(0.01)), Pretend("b", slower_and_slower(0.005))]
    result = bench(models, threads=1, seconds=0.001, min_runs=60)
    assert result.ratios[1].value == pytest.approx(0.5, rel=0.05)


def test_noise_is_reported():
    jumpy = Pretend("a", lambda call, _: 0.01 if call % 3 == 0 else 0.001)
    result = bench([jumpy], threads=1, seconds=0.02)
    assert result.noisy
    assert any("model 0: one run in ten" in reason for reason in result.noise)
    steady = bench([Pretend("a", 0.001)], threads=1, seconds=0.02)
    assert not [reason for reason in steady.noise if reason.startswith("model")]


def test_very_slow_models_get_few_runs():
    from time import sleep

    class Slow(Pretend):
        def time(self, feed, runs):
            sleep(0.01 * runs)
            return [0.01] * runs

    result = bench([Slow("a", 0)], threads=1, seconds=0.01, min_runs=10**6)
    assert 3 <= result.latencies[0].runs < 100


def test_a_real_model():
    result = bench([relu(), relu()], "onnxruntime:cpu", threads=1, batch=3, seconds=0.05, min_runs=5)
    assert all(0 < latency.p10 <= latency.median <= latency.p90 for latency in result.latencies)
    environment = result.environment
    assert environment["provider"] == "CPUExecutionProvider"
    assert (environment["batch"], environment["threads"]) == (3, 1)
    assert {"cpu", "governor", "load_average", "os", "version", "affinity"} <= set(environment)
    if CORES is not None:
        assert len(environment["affinity"]) == 1
        assert os.sched_getaffinity(0) == CORES


def test_feeds_of_the_user_and_sizes():
    class Recorder(Pretend):
        def time(self, feed, runs):
            self.shape = feed["x"].shape
            return super().time(feed, runs)

    session = Recorder("a", 0.001)
    bench([session], threads=1, seconds=0.001, min_runs=1)
    assert session.shape == (1, 2)
    bench([session], threads=1, seconds=0.001, min_runs=1, batch=5)
    assert session.shape == (5, 2)
    bench([session], threads=1, seconds=0.001, min_runs=1, feed={"x": np.ones((7, 2), np.float32)})
    assert session.shape == (7, 2)
    session.inputs = (TensorSpec("x", ("N", "T"), np.dtype(np.float32)),)
    bench([session], threads=1, seconds=0.001, min_runs=1, sizes={"T": 9})
    assert session.shape == (1, 9)


@pytest.mark.parametrize("bad", [{"batch": 0}, {"seconds": 0}, {"min_runs": 0}])
def test_bad_options(bad):
    with pytest.raises(OptionError, match="at least 1"):
        bench([Pretend("a", 0.001)], **bad)


def test_bad_models():
    with pytest.raises(OptionError, match="at least one model"):
        bench([])
    with pytest.raises(ModelError, match="does not exist"):
        bench(["no/such.onnx"])
    with pytest.raises(DataError, match="cannot run"):
        bench([relu()], feed={"x": np.ones((1, 3), np.float32)})
