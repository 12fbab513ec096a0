"""What stays, in terms of the initializers that came in."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_graphs import check, found, model, node, normal, sizes
from channel_helpers import run, tensors_of

from obs_onnx.passes.channels.keep_file import keep_file, replay
from obs_onnx.passes.channels.remove_channels import RemoveChannels


def test_merged_small_constants_are_separated() -> None:
    """The exporter gave two layers one bias; they still lose different channels."""
    nodes = [node("Conv", "x a b", "s"), node("Conv", "s c b", "t"), node("Conv", "t d", "y")]
    kernels = {"a": normal(6, 3, 1, 1), "b": normal(6), "c": normal(6, 6, 1, 1), "d": normal(2, 6, 1, 1)}
    proto = model(nodes, kernels)
    coupling = check(proto)
    assert sizes(coupling) == [6, 6]
    keep = {0: np.arange(6) < 2, 1: np.arange(6) < 3}
    file = keep_file(ir.from_proto(proto), coupling, keep)
    tensors = file["tensors"]
    assert set(tensors) == {"a", "c", "d"}
    assert [use["kept"] for use in file["uses"]["b"]] == [{"0": [0, 1]}, {"0": [0, 1, 2]}]
    again = replay(ir.from_proto(proto), json.loads(json.dumps(tensors)))
    assert again.graph.initializers["c"].shape == (3, 2, 1, 1)


def test_indices_of_another_model_are_refused() -> None:
    nodes = [node("Conv", "x a", "s"), node("Conv", "s b", "y")]
    proto = model(nodes, {"a": normal(6, 3, 1, 1), "b": normal(4, 6, 1, 1)})
    with pytest.raises(ValueError, match="6 elements"):
        replay(ir.from_proto(proto), {"a": {"0": [0, 6]}})


def shared() -> onnx.ModelProto:
    """One matrix for two layers: the first loses outputs, the second inputs; their inner one stays free."""
    nodes = [
        node("MatMul", "x a", "s"),
        node("Relu", "s", "r"),
        node("MatMul", "r b", "t"),
        node("Relu", "t", "u"),
        node("MatMul", "u b", "v"),
        node("Relu", "v", "w"),
        node("MatMul", "w c", "y"),
    ]
    weights = {"a": normal(4, 6), "b": normal(6, 6), "c": normal(6, 2)}
    return model(nodes, weights, x=("N", 4), y=("N", 2), opset=13)


def test_what_each_use_of_a_shared_weight_keeps_is_told_and_replayed() -> None:
    proto = shared()
    coupling = check(proto, x=(4,))
    assert {site for group in coupling.groups for site in group.sites} >= {("a", 1), ("c", 0)}
    keep = {group.id: np.arange(6) > group.id for group in coupling.groups}
    file = json.loads(json.dumps(keep_file(ir.from_proto(proto), coupling, keep)))
    assert set(file["tensors"]) == {"a", "c"}
    assert [(use["output"], use["input"]) for use in file["uses"]["b"]] == [("t", 1), ("v", 1)]
    small = coupling.model.clone()
    RemoveChannels(keep).call(small)
    for written in (file, file["tensors"]):
        again = replay(ir.from_proto(proto), written)
        x = normal(3, 4)
        np.testing.assert_allclose(run(again, x), run(small, x), rtol=1e-5, atol=1e-5)
    weights = tensors_of(ir.from_proto(proto))
    left = {name: array for name, array in tensors_of(small).items() if name in weights}
    for name, axes in file["tensors"].items():
        for axis, kept in axes.items():
            weights[name] = weights[name].take(kept, int(axis))
        np.testing.assert_array_equal(left[name], weights[name])


def test_channels_that_only_stand_in_a_shared_weight_stay() -> None:
    """Between the two uses of b nothing else says which channels went."""
    proto = shared()
    coupling = found(proto)
    assert all({site.initializer for site in group.sites} & {"a", "c"} for group in coupling.groups)
    assert any("serves several nodes" in frozen.reason for frozen in coupling.frozen)


def test_a_use_of_another_model_is_refused() -> None:
    file = {"schema": 1, "tensors": {}, "uses": {"b": [{"output": "none", "input": 1, "kept": {"0": [1]}}]}}
    with pytest.raises(ValueError, match="b is no input of the node with the output none"):
        replay(ir.from_proto(shared()), file)  # type: ignore[arg-type]
