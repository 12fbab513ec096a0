"""What stays, in terms of the initializers that came in."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import pytest
from channel_graphs import check, model, node, normal, sizes

from obs_onnx.passes.channels.keep_file import keep_file, replay


def test_merged_small_constants_are_separated() -> None:
    """The exporter gave two layers one bias; they still lose different channels."""
    nodes = [node("Conv", "x a b", "s"), node("Conv", "s c b", "t"), node("Conv", "t d", "y")]
    kernels = {"a": normal(6, 3, 1, 1), "b": normal(6), "c": normal(6, 6, 1, 1), "d": normal(2, 6, 1, 1)}
    proto = model(nodes, kernels)
    coupling = check(proto)
    assert sizes(coupling) == [6, 6]
    keep = {0: np.arange(6) < 2, 1: np.arange(6) < 3}
    tensors = keep_file(ir.from_proto(proto), coupling, keep)["tensors"]
    assert set(tensors) == {"a", "c", "d"}  # type: ignore[call-overload]
    again = replay(ir.from_proto(proto), json.loads(json.dumps(tensors)))
    assert again.graph.initializers["c"].shape == (3, 2, 1, 1)


def test_indices_of_another_model_are_refused() -> None:
    nodes = [node("Conv", "x a", "s"), node("Conv", "s b", "y")]
    proto = model(nodes, {"a": normal(6, 3, 1, 1), "b": normal(4, 6, 1, 1)})
    with pytest.raises(ValueError, match="6 elements"):
        replay(ir.from_proto(proto), {"a": {"0": [0, 6]}})
