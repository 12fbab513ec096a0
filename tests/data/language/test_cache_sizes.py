"""Widths of caches that a model names but does not number."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from obs_onnx.data.language.cache_sizes import implied_sizes

F, I32 = TensorProto.FLOAT, TensorProto.INT32


def _model(nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], opset: int = 21) -> ir.Model:
    outputs = [helper.make_tensor_value_info("y", F, None)]
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return ir.from_proto(
        helper.make_model(helper.make_graph(nodes, "g", inputs, outputs), opset_imports=opsets)
    )


def _past(*names: str) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, F, ["batch", 2, "past", "width"]) for name in names]


def _grouped(packed: bool) -> ir.Model:
    width = 8 * (4 + 2 * 2) if packed else 8 * 4
    inputs = [helper.make_tensor_value_info("q", F, ["batch", "seq", width])]
    if not packed:
        inputs += [helper.make_tensor_value_info(name, F, ["batch", "seq", 16]) for name in "kv"]
    inputs += _past("pk", "pv")
    inputs += [
        helper.make_tensor_value_info("s", I32, ["batch"]),
        helper.make_tensor_value_info("t", I32, []),
    ]
    slots = ["q", *(("", "") if packed else ("k", "v")), "pk", "pv", "s", "t"]
    node = helper.make_node(
        "GroupQueryAttention", slots, ["y", "a", "b"], domain="com.microsoft", num_heads=4, kv_num_heads=2
    )
    return _model([node], inputs)


@pytest.mark.parametrize("packed", [False, True])
def test_grouped_heads(packed: bool) -> None:
    assert implied_sizes(_grouped(packed)) == {"width": 8}


def test_a_cache_that_is_joined() -> None:
    inputs = [helper.make_tensor_value_info("k", F, ["batch", 2, "seq", 12]), *_past("pk")]
    assert implied_sizes(_model([helper.make_node("Concat", ["pk", "k"], ["y"], axis=2)], inputs)) == {
        "width": 12
    }


def test_what_nothing_says_is_not_guessed() -> None:
    assert implied_sizes(_model([helper.make_node("Relu", ["pk"], ["y"])], _past("pk"))) == {}
