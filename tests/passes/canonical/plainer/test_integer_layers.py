"""Layers on integers are layers of the numbers that these stand for."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from integer_operators import CASES, Case, graph, outputs, reference

from obs_onnx.calibration.layer_weights import LayerWeights
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.canonical.plainer.integer_forms import FORMS
from obs_onnx.passes.canonical.plainer.integer_layers import opened
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.ops import key


@pytest.mark.parametrize("case", CASES, ids=str)
def test_numbers_of_a_layer(case: Case) -> None:
    proto = graph(case)
    model = prepare(ir.from_proto(proto))
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert not [node for node in model.graph if key(node) in FORMS]
    (layer,), _ = find_layers(model)
    held, (w, b) = LayerWeights.of(model, layer), reference(case)
    assert layer.name == "w"
    np.testing.assert_allclose(held.weight, w, rtol=1e-6)
    assert (held.bias is None) == (b is None)
    if b is not None:
        np.testing.assert_allclose(held.bias.reshape(-1), b, rtol=1e-6)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 5, 6, 6) if case.is_conv else (3, 5)).astype(np.float32)
    expected = outputs(proto, x)
    step = 0.4 if "QLinear" in case.op_type or case.op_type == "QGemm" else 1e-4
    np.testing.assert_allclose(outputs(ir.to_proto(model), x), expected, atol=1.01 * step)


def test_names_stay() -> None:
    model = opened(ir.from_proto(graph(CASES[0])))
    assert [node.name for node in model.graph if node.op_type == "Conv"] == ["layer"]
    assert {"w", "ws", "wz", "b", "s", "z", "t", "u"} <= set(model.graph.initializers)
    plain = ir.from_proto(graph(CASES[0]))
    assert opened(plain) is not plain
    assert opened(opened(plain)).graph.num_nodes() == model.graph.num_nodes()


def test_old_opsets() -> None:
    """Before opset 13 DequantizeLinear has no axis; that of onnxruntime has."""
    proto = graph(Case("QLinearConv"))
    proto.opset_import[0].version = 11
    model = prepare(ir.from_proto(proto))
    x = np.random.default_rng(1).standard_normal((3, 5, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(outputs(ir.to_proto(model), x), outputs(proto, x), atol=0.41)
    assert len(find_layers(model)[0]) == 1
