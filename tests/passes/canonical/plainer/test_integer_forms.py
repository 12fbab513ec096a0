"""What of layers on integers can be read, and what is left alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from integer_operators import CASES, Case, graph
from onnx import helper

from obs_onnx.passes.canonical.plainer.integer_forms import FORMS, read_layer
from obs_onnx.passes.canonical.plainer.integer_layers import opened
from obs_onnx.passes.ops import key


@pytest.mark.parametrize("case", CASES, ids=str)
def test_weight_and_outputs(case: Case) -> None:
    model = ir.from_proto(graph(case))
    (node,) = [node for node in model.graph if key(node) in FORMS]
    found = read_layer(node, FORMS[key(node)])
    assert found is not None
    assert found.outputs == 6
    assert found.factors[found.side].q.name == "w"
    assert (found.bias is None) == (not case.bias or case.op_type == "MatMulInteger")


def layer_of(proto: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in proto.graph.node if node.name == "layer")


def two_activations(proto: onnx.ModelProto) -> None:
    """No factor is constant."""
    inputs = layer_of(proto).input
    proto.graph.initializer.remove(next(one for one in proto.graph.initializer if one.name == "w"))
    proto.graph.input.append(helper.make_tensor_value_info("w", onnx.TensorProto.INT8, [5, 6]))
    assert "w" in inputs


def last_channels(proto: onnx.ModelProto) -> None:
    layer_of(proto).attribute.append(helper.make_attribute("channels_last", 1))


def another_user(proto: onnx.ModelProto) -> None:
    """The sums of integers are an output as well."""
    proto.graph.output.append(helper.make_tensor_value_info("e", onnx.TensorProto.INT32, None))


@pytest.mark.parametrize(
    ("case", "change"),
    [
        (Case("QLinearMatMul", bias=False), two_activations),
        (Case("QLinearConv", "com.microsoft"), last_channels),
        (Case("MatMulInteger", kind=np.uint8), another_user),
    ],
)
def test_what_is_left_alone(case: Case, change: Callable[[onnx.ModelProto], None]) -> None:
    proto = graph(case)
    change(proto)
    model = opened(ir.from_proto(proto))
    assert [key(node) for node in model.graph if key(node) in FORMS]
