"""Bytes kept and moved, against real runs."""

from __future__ import annotations

import nets
import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.evaluation.run_cost import measured
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.costs.traffic import Traffic
from obs_onnx.runtimes import open_runtime


class TestTraffic:
    @pytest.mark.parametrize("name", sorted(nets.NETS))
    def test_traffic_is_that_of_the_smaller_model(self, name: str) -> None:
        """Bytes of all values of a real run, for a number of samples that the coupling knows nothing of."""
        proto = nets.NETS[name]()
        model = prepare(ir.from_proto(proto))
        coupling, runtime = couple(model), open_runtime("onnxruntime", 1)
        (declared,) = [value for value in model.graph.inputs if not value.is_initializer()]
        sample = {"x": nets.data(0, 1, *(int(n) for n in declared.shape[1:]))}
        traffic = Traffic(coupling, measured(runtime, model, sample).sizes)
        rng = np.random.default_rng(0)
        for _ in range(3):
            keep = {g.id: rng.permutation(g.n) < rng.integers(1, g.n + 1) for g in coupling.groups}
            small = model.clone()
            RemoveChannels(keep, coupling.of(small)).call(small)
            sizes = dict(measured(runtime, small, sample).sizes)
            sizes |= {n: v.const_value.nbytes for n, v in small.graph.initializers.items()}
            counts = {group: int(mask.sum()) for group, mask in keep.items()}
            moved = [
                sizes[str(value.name)]
                for node in small.graph
                for value in (*dict.fromkeys(v for v in node.inputs if v is not None), *node.outputs)
            ]
            assert traffic.memory.value(counts) == pytest.approx(sum(sizes.values()), rel=1e-9)
            assert traffic.bandwidth.value(counts) == pytest.approx(sum(moved), rel=1e-9)
