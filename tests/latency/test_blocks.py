"""Blocks timed one by one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from formula_runtime import FormulaRuntime, in_steps
from nets import NETS
from wide_net import LOCAL, coupled, sample_of, wide

from obs_onnx.latency.blocks import MOST_TIMINGS, BlockClock, groups_of_blocks, narrowed
from obs_onnx.latency.cache import LatencyCache
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.runtimes import open_runtime


def test_a_disturbed_time_is_taken_again() -> None:
    coupling, target, cache = coupled(wide()), FormulaRuntime(in_steps(16)), LatencyCache({"d": 1})
    clock = BlockClock(target, LOCAL, sample_of(coupling), cache)
    truth = clock.milliseconds(clock.signatures(coupling.model)["Conv_inner"])
    small = {group.id: 32 for group in coupling.groups}
    keys = clock.signatures(narrowed(coupling, small))
    cache._known[keys["Conv_inner"]] = (100.0, 1)
    clock.signatures(narrowed(coupling, small), {"Conv_inner"}, again=True)
    assert cache.timings(keys["Conv_inner"]) == 2
    assert clock.milliseconds(keys["Conv_inner"]) < truth
    for _ in range(3):
        clock.signatures(narrowed(coupling, small), {"Conv_inner"}, again=True)
    assert cache.timings(keys["Conv_inner"]) == MOST_TIMINGS
    assert cache.timings(keys["Conv_outer"]) == 1


@pytest.mark.parametrize("net", NETS)
def test_groups_of_a_block_are_those_that_change_its_sizes(net: str) -> None:
    """A block's own signature changes with its groups, and with no others."""
    coupling = couple(prepare(ir.from_proto(NETS[net]())))
    shapes = [int(dim) for dim in coupling.model.graph.inputs[0].shape[1:]]
    sample = {"x": np.random.default_rng(0).standard_normal((1, *shapes)).astype(np.float32)}
    timer = BlockClock(
        FormulaRuntime(in_steps(1)), open_runtime("onnxruntime", 1), sample, LatencyCache({"net": net})
    )
    dense, meeting = timer.signatures(coupling.model), groups_of_blocks(coupling)
    assert dense.keys() == meeting.keys()
    for group in coupling.groups:
        small = timer.signatures(narrowed(coupling, {group.id: max(group.n // 2, 1)}))
        for name, key in small.items():
            assert (key != dense[name]) == (group.id in meeting[name]), name
