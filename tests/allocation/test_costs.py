"""Costs measured on a model, and predicted: both agree where no channel is gone and where some are."""

from __future__ import annotations

from types import SimpleNamespace

import nets
import numpy as np
import onnx_ir as ir
import pytest
from channel_helpers import counted, random_keep, shape_of

from obs_onnx.allocation.costs import (
    LATENCY,
    MACS,
    PARAMS,
    RAM,
    SIZE,
    Measured,
    ModelCost,
    Predicted,
    at_most,
)
from obs_onnx.evaluation.run_cost import measured
from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.runtimes import open_runtime

RUNTIME = open_runtime("onnxruntime", 1)


@pytest.mark.parametrize("name", ["mlp", "residual", "mobile", "transformer"])
def test_predictions_of_shares_hold(name: str) -> None:
    proto = nets.NETS[name]()
    model = prepare(ir.from_proto(proto))
    sample = {"x": nets.data(0, 1, *shape_of(proto))}
    coupling, run = couple(model), measured(RUNTIME, model, sample)
    dense, predicted = Measured(model, run), Predicted(coupling, run.sizes)
    keep = random_keep(coupling, seed=1)
    small = model.clone()
    RemoveChannels(keep, coupling.of(small)).call(small)
    found = Measured(small, measured(RUNTIME, small, sample))
    assert MACS.measure(dense) == nets.macs(proto)
    assert PARAMS.measure(dense) == nets.params(ir.to_proto(model))
    for cost in (MACS, PARAMS, RAM):
        whole = cost.predict(predicted).value({})
        share = cost.predict(predicted).value(counted(keep)) / whole
        assert cost.share(dense, dense) == 1
        assert cost.share(found, dense) == pytest.approx(share, rel=1e-9)
    assert RAM.predict(predicted).value({}) == RAM.measure(dense)
    assert SIZE.measure(dense) == len(serialize(model))
    assert SIZE.measure(Measured(model, run, file_bytes=7)) == 7


def test_a_limit_on_a_peak_is_one_on_every_moment() -> None:
    model = prepare(ir.from_proto(nets.residual()))
    run = measured(RUNTIME, model, {"x": nets.data(0, 1, 3, 8, 8)})
    predicted = Predicted(couple(model), run.sizes)
    assert list(at_most(MACS.predict(predicted), 5.0)) == [(predicted.costs.macs, 5.0)]
    moments = list(at_most(RAM.predict(predicted), 0.5 * run.peak.bytes))
    assert len(moments) > 1
    assert {limit for _, limit in moments} == {0.5 * run.peak.bytes}
    assert max(cost.value({}) for cost, _ in moments) == run.peak.bytes


def test_latency_is_compared_by_the_clock() -> None:
    model = ir.from_proto(nets.mlp())
    clock = SimpleNamespace(dense_ms=4.0, ratio=lambda small: 0.25)
    dense = Measured(model, SimpleNamespace(), clock=clock)
    assert LATENCY.share(Measured(model, SimpleNamespace()), dense) == 0.25
    assert LATENCY.measure(dense) == 4.0
    cost = SimpleNamespace()
    assert LATENCY.predict(Predicted(couple(prepare(model)), {}, cost)) is cost


def test_a_model_that_costs_nothing_is_one() -> None:
    nothing = ModelCost(lambda one: 0, lambda one: one.costs.macs)
    model = Measured(ir.from_proto(nets.mlp()), SimpleNamespace())
    assert nothing.share(model, model) == 1.0
    assert np.isfinite(nothing.share(model, model))
