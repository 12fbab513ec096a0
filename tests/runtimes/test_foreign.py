"""Operators that a runtime does not have."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from decided_nets import decided, plugin

from obs_onnx.passes.canonical.canonicalize import plain
from obs_onnx.passes.shapes.infer_shapes import InferShapes
from obs_onnx.runtimes import open_runtime
from obs_onnx.runtimes.foreign import foreign_operators

RUNTIME = open_runtime("onnxruntime", 1)


def foreign(proto) -> list[str]:
    model = plain(ir.from_proto(proto))
    InferShapes().call(model)
    return list(foreign_operators(RUNTIME, model))


@pytest.mark.parametrize("domain", ["TRT", ""])
def test_plugins(domain: str) -> None:
    """onnxruntime knows the form of TensorRT's own, and has no kernel for it."""
    assert foreign(plugin(domain)) == ["TRT::EfficientNMS_TRT" if domain else "EfficientNMS_TRT"]


def test_operators_of_the_runtime_alone_are_none() -> None:
    proto = decided("t = Transpose <perm = [0,2,3,1]> (br)  y = Relu(t)", "float[1,4,4,16] y")
    node = proto.graph.node[-1]
    node.op_type, node.domain = "Gelu", "com.microsoft"
    assert foreign(proto) == []
    node.op_type, node.domain = "ThresholdedRelu", ""
    assert foreign(proto) == []
