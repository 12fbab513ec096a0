"""Steps of channels, on times that fall in known steps."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from formula_runtime import FormulaRuntime, in_steps
from nets import Net

from obs_onnx.latency.blocks import BlockClock
from obs_onnx.latency.cache import LatencyCache
from obs_onnx.latency.width_quantum import STEPS, group_counts, group_quanta, kind_quanta, quantum_of
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import Coupling, couple
from obs_onnx.runtimes import open_runtime


def chain(*widths: int) -> Coupling:
    """Pointwise convolutions one after the other."""
    net, x = Net(0), "x"
    for number, (i, o) in enumerate(zip((3, *widths), widths, strict=False)):
        x = net.op("Relu", net.conv(x, f"c{number}", o, i, k=1))
    net.op("Identity", net.dense(net.pooled(x), "head", widths[-1], 5), name="y")
    return couple(prepare(ir.from_proto(net.proto({"x": [3, 4, 4]}, {"y": [5]}))))


def clock(step: int, coupling: Coupling) -> BlockClock:
    sample = {"x": np.zeros((1, 3, 4, 4), np.float32)}
    place = {"step": step, "groups": len(coupling.groups)}
    target = FormulaRuntime(in_steps(step))
    return BlockClock(target, open_runtime("onnxruntime", 1), sample, LatencyCache(place))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_steps_are_found(step: int, noise: float) -> None:
    rng = np.random.default_rng(step)
    times = {n: -(-(64 - n) // step) * step * (1 + noise * rng.standard_normal()) for n in (0, *STEPS)}
    assert quantum_of(times) == step


def test_what_saves_nothing_has_no_quantum() -> None:
    assert quantum_of({n: 5.0 - 0.005 * n for n in (0, *STEPS)}) is None
    assert quantum_of({n: 5.0 + n for n in (0, *STEPS)}) is None


def test_a_small_step_behind_a_dead_one_does_not_count() -> None:
    # one channel less saves, four do not: what holds at four is not to be trusted at one
    assert quantum_of({0: 64.0, 1: 60.0, 2: 60.0, 4: 64.0, 8: 56.0, 16: 48.0}) == 8


@pytest.mark.parametrize("step", [1, 4, 8, 16])
def test_kinds_of_a_model(step: int) -> None:
    coupling = chain(128, 128, 64)
    found = kind_quanta(clock(step, coupling), coupling)
    assert found["Conv 1x1 1/1"] == step
    narrow = chain(24, 16)
    assert set(kind_quanta(clock(step, narrow), narrow).values()) == {None}


def test_quanta_of_groups() -> None:
    coupling = chain(128, 48, 6)
    width = {group.n: group.id for group in coupling.groups}
    found = group_quanta(coupling, {"Conv 1x1 1/1": 16}, 8)
    assert [found[width[n]] for n in (128, 48, 6)] == [16, 8, 1]  # at least four counts
    assert group_quanta(coupling, {}, 8)[width[128]] == 8
    assert set(group_quanta(coupling, {"Conv 1x1 1/1": 16}, 8, wanted=5).values()) == {5}


def test_below_one_step_there_are_halves() -> None:
    coupling = chain(128, 48, 6)
    width = {group.n: group.id for group in coupling.groups}
    counts = group_counts(coupling, {width[128]: 16, width[48]: 8, width[6]: 1})
    assert counts[width[128]] == (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128)
    assert counts[width[48]] == (2, 4, 8, 16, 24, 32, 40, 48)
    assert counts[width[6]] == (1, 2, 3, 4, 5, 6)
