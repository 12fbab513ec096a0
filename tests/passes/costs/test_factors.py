"""Costs of pairs that are one layer where that is cheaper, against what is written."""

from __future__ import annotations

import itertools

import nets
import numpy as np
import onnx_ir as ir
import pytest
from channel_helpers import counted, random_keep

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.canonical.plainer.factors import SplitLayers, pairs
from obs_onnx.passes.canonical.plainer.written_form import written_form
from obs_onnx.passes.channels.coupling import Coupling, couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.costs.factors import surplus
from obs_onnx.passes.costs.macs import count_macs
from obs_onnx.passes.costs.model_costs import Costs
from obs_onnx.passes.graph.parameters import float_tensors


@pytest.fixture
def paired() -> Coupling:
    model = prepare(ir.from_proto(nets.residual()))
    assert SplitLayers().call(model).modified
    return couple(model)


def test_as_what_is_written(paired: Coupling) -> None:
    costs, seen = Costs(paired), set()
    for seed in range(40):
        keep = random_keep(paired, seed)
        small = paired.model.clone()
        RemoveChannels(keep).call(small)
        written = written_form(small)
        seen.add(len(list(pairs(small))) - len(list(pairs(written))))
        counts = counted(keep)
        assert costs.params.value(counts) == sum(t.size for t in float_tensors(written))
        assert costs.macs.value(counts) == pytest.approx(
            count_macs(written) * costs.macs.value({}) / dense(paired)
        )
    assert len(seen) > 1  # some are merged, some not


def dense(coupling: Coupling) -> int:
    return count_macs(written_form(coupling.model))


def test_nothing_is_dearer_than_before(paired: Coupling) -> None:
    plain = Costs(couple(prepare(ir.from_proto(nets.residual()))))
    costs = Costs(paired)
    assert costs.params.value({}) == plain.params.value({})
    assert costs.bytes.value({}) == plain.bytes.value({})
    assert costs.macs.value({}) == plain.macs.value({})


def test_savings_are_differences(paired: Coupling) -> None:
    costs, groups = Costs(paired), [group.id for group in paired.groups]
    half = {group.id: max(group.n // 2, 1) for group in paired.groups}
    for quantity, group, counts in itertools.product(
        (costs.macs, costs.params, costs.bytes), groups, ({}, half)
    ):
        tried = np.arange(1, costs.full[group] + 1)
        expected = [quantity.value(counts) - quantity.value({**counts, group: int(n)}) for n in tried]
        np.testing.assert_allclose(quantity.saving(counts, group, tried), expected, rtol=1e-9, atol=1e-6)
        changed = {
            other
            for other in groups
            if other != group
            and not np.allclose(
                quantity.saving(counts, other, 1), quantity.saving({**counts, group: 1}, other, 1)
            )
        }
        assert changed <= quantity.coupled(group)


def test_a_pair_by_hand() -> None:
    rank, outputs = {((0, 1),): 1.0}, {((1, 1),): 1.0}
    first, second = {((0, 1),): 20.0}, {((0, 1), (1, 1)): 1.0}
    assert surplus(first, second, rank, outputs) == {
        ((0, 1),): 20.0,
        ((0, 1), (1, 1)): 1.0,
        ((1, 1),): -20.0,
    }
    assert surplus({(): 20.0}, second, rank, outputs) is None
