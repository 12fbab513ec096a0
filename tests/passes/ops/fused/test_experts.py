"""Experts, and units within them: what is found, and that removal is silence, in onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from channel_graphs import found, node, normal
from channel_graphs import model as plain
from channel_helpers import random_keep, run
from onnx import helper, numpy_helper

from obs_onnx.passes.channels.coupling import Coupling
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence
from obs_onnx.passes.costs.macs import count_macs

WIDTH, EXPERTS, UNITS = 8, 5, 6


def mixture(
    gates: int = 1, rank: int = 3, names: str = "f1 b1 f2 b2", experts: int = EXPERTS, **attributes
) -> onnx.ModelProto:
    """A projection, experts of six units around a residual, and another projection."""
    weights = {
        "w": normal(4, WIDTH),
        "r": normal(WIDTH, experts) * 2,
        "v": normal(WIDTH, 3),
        "f1": normal(experts, gates * UNITS, WIDTH),
        "b1": normal(experts, gates * UNITS),
        "f2": normal(experts, WIDTH, UNITS),
        "b2": normal(experts, WIDTH),
        "rows": np.array([-1, WIDTH]),
    }
    inputs = "h s " + names
    nodes = [
        node("MatMul", "x w", "h"),
        node("Reshape", "h rows", "t") if rank == 3 else node("Identity", "h", "t"),
        node("MatMul", "t r", "s"),
        helper.make_node(
            "MoE", inputs.replace("-", "").split(" "), ["e"], "moe", domain="com.microsoft", **attributes
        ),
        node("Add", "h e", "a"),
        node("MatMul", "a v", "y"),
    ]
    used = {name for each in nodes for name in each.input}
    proto = plain(nodes, {k: v for k, v in weights.items() if k in used}, (*("N", 5, 4)[: rank - 1], 4))
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto


def removed(proto: onnx.ModelProto, x: np.ndarray, seeds: int = 5) -> Coupling:
    coupling = found(proto)
    for seed in range(seeds):
        keep = random_keep(coupling, seed)
        small = coupling.model.clone()
        RemoveChannels(keep).call(small)
        np.testing.assert_allclose(run(small, x), run(silence(coupling.model, keep), x), 1e-4, 1e-4)
    return coupling


def named(coupling: Coupling) -> dict[str, int]:
    return {group.name: group.n for group in coupling.groups}


X = normal(2, 5, 4)


@pytest.mark.parametrize("normalized", [0, 1])
@pytest.mark.parametrize("k", [1, 3])
def test_experts_units_and_width(k: int, normalized: int) -> None:
    coupling = removed(mixture(k=k, normalize_routing_weights=normalized), X)
    assert sorted(named(coupling).values()) == [EXPERTS, UNITS, WIDTH]


@pytest.mark.parametrize(
    "options",
    [
        {"gates": 2, "activation_type": "swiglu", "swiglu_fusion": 1},
        {"rank": 2},
        {"names": "f1 - f2"},
        {"activation_type": "gelu", "k": 2},
    ],
)
def test_other_forms(options) -> None:
    rank = options.get("rank", 3)
    coupling = removed(mixture(**options), X if rank == 3 else X[0])
    assert sorted(named(coupling).values()) == [EXPERTS, UNITS, WIDTH]


def test_no_more_are_chosen_than_there_are() -> None:
    coupling = found(mixture(k=3))
    (experts,) = (group for group in coupling.groups if group.n == EXPERTS)
    for kept in (2, 4):
        keep = {experts.id: np.arange(EXPERTS) < kept}
        small = coupling.model.clone()
        RemoveChannels(keep).call(small)
        (moe,) = (one for one in small.graph if one.op_type == "MoE")
        assert moe.attributes["k"].as_int() == min(3, kept)
        np.testing.assert_allclose(run(small, X), run(silence(coupling.model, keep), X), 1e-4, 1e-4)


def test_halves_in_a_row_are_told_apart() -> None:
    coupling = found(mixture(gates=2, activation_type="swiglu", swiglu_fusion=2))
    assert sorted(named(coupling).values()) == [EXPERTS, UNITS, WIDTH]
    (units,) = (group for group in coupling.groups if group.n == UNITS)
    small = coupling.model.clone()
    RemoveChannels({units.id: np.arange(UNITS) % 2 == 0}).call(small)
    before, after = (m.graph.initializers["f1"].const_value.numpy() for m in (coupling.model, small))
    np.testing.assert_array_equal(after, before[:, ::2])


def test_unknown_layouts_and_mixers_stay() -> None:
    coupling = found(mixture(gates=2, activation_type="swiglu"))
    assert named(coupling) == {}
    assert any("how the rows of its first layer" in one.reason for one in coupling.frozen)
    assert sorted(named(found(mixture(use_sparse_mixer=1, k=2))).values()) == [UNITS, WIDTH]


def test_work_is_that_of_the_chosen() -> None:
    one, two = (count_macs(found(mixture(k=k)).model) for k in (1, 2))
    assert two - one == 5 * 2 * WIDTH * UNITS


def test_packed_experts() -> None:
    proto = mixture(experts=4)
    moe = next(one for one in proto.graph.node if one.op_type == "MoE")
    packed = {
        "q1": np.random.default_rng(0).integers(0, 256, (4, 16, 4), np.uint8),
        "s1": np.abs(normal(4, 16)) / 8,
        "q2": np.random.default_rng(1).integers(0, 256, (4, WIDTH, 8), np.uint8),
        "s2": np.abs(normal(4, WIDTH)) / 8,
    }
    del proto.graph.initializer[[w.name for w in proto.graph.initializer].index("f1")]
    proto.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in packed.items())
    moe.op_type = "QMoE"
    moe.input[:] = ["h", "s", "q1", "s1", "", "q2", "s2"]
    moe.attribute.append(helper.make_attribute("expert_weight_bits", 4))
    coupling = removed(proto, X)
    assert list(named(coupling).values()) == [4]
