"""What costs take off scores."""

from __future__ import annotations

import nets
import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.allocation.regularizers import penalties, regularizers
from obs_onnx.evaluation.run_cost import measured
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.errors import OptionError
from obs_onnx.runtimes import open_runtime


class TestPenalties:
    def test_a_channel_costs_what_its_removal_saves(self) -> None:
        model = prepare(ir.from_proto(nets.residual()))
        coupling, runtime = couple(model), open_runtime("onnxruntime", 1)
        sample = {"x": nets.data(0, 1, 3, 8, 8)}
        dense = measured(runtime, model, sample)
        costs = regularizers(coupling, dense.macs, dense.sizes)
        off = penalties({"flops": 3.0, "memory": 5.0}, costs, coupling.groups)
        for group in coupling.groups:
            small = model.clone()
            RemoveChannels({group.id: np.arange(group.n) > 0}, coupling.of(small)).call(small)
            less = measured(runtime, small, sample)
            flops = 2 * (dense.macs - less.macs) / 1e6
            values = sum(dense.sizes.values()) - sum(less.sizes.values())
            stored = [
                sum(v.const_value.nbytes for v in one.graph.initializers.values()) for one in (model, small)
            ]
            expected = 3 * flops + 5 * (values + stored[0] - stored[1]) / 1e6
            assert off[group.id] == pytest.approx(expected, rel=1e-9)
        stepped = penalties({"flops": 3.0}, costs, coupling.groups, {g.id: 4 for g in coupling.groups})
        for group in coupling.groups:
            saved = float(costs["flops"].saving({}, group.id, group.n - 4))
            assert stepped[group.id] == pytest.approx(3 * saved / 4)

    def test_any_cost_can_be_latency(self) -> None:
        model = prepare(ir.from_proto(nets.residual()))
        coupling = couple(model)
        dense = measured(open_runtime("onnxruntime", 1), model, {"x": nets.data(0, 1, 3, 8, 8)})
        costs = regularizers(coupling, dense.macs, dense.sizes)
        with pytest.raises(OptionError, match="where a target latency is asked for"):
            penalties({"latency": 1.0}, costs, coupling.groups)
        timed = regularizers(coupling, dense.macs, dense.sizes, latency=costs["flops"])
        assert penalties({"latency": 1.0}, timed, coupling.groups) == penalties(
            {"flops": 1.0}, costs, coupling.groups
        )
