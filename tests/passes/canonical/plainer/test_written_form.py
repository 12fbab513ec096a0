"""What is written computes in integers as before, whatever has become of weights and channels."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from integer_operators import CASES, Case, graph, outputs
from onnx import numpy_helper

from obs_onnx.calibration.layer_weights import LayerWeights
from obs_onnx.passes.canonical.finished import finished
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.canonical.plainer.written_form import in_integers, written_form
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.find_layers import find_layers


def arrays(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}


def described(proto: onnx.ModelProto) -> list[tuple[str, str, list[str]]]:
    return sorted((node.op_type, node.domain, list(node.input)) for node in proto.graph.node)


@pytest.mark.parametrize("canonical", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_there_and_back(case: Case, canonical: bool) -> None:
    proto = graph(case)
    original = ir.from_proto(proto)
    back = ir.to_proto(finished(prepare(original, canonical), original))
    onnx.checker.check_model(back, full_check=True)
    kinds = [sorted(node.op_type for node in one.graph.node) for one in (back, proto)]
    assert kinds[0] == kinds[1]
    for name, array in arrays(proto).items():
        np.testing.assert_array_equal(arrays(back)[name], array)
    shape = (3, 5, 6, 6) if case.is_conv else (3, 5)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    np.testing.assert_array_equal(outputs(back, x), outputs(proto, x))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_new_weights_in_their_integers(case: Case) -> None:
    """Scales are chosen anew; those of a bias of integers follow; numbers are the nearest ones."""
    model = prepare(ir.from_proto(graph(case)))
    (layer,), _ = find_layers(model)
    held = LayerWeights.of(model, layer)
    rng = np.random.default_rng(4)
    w = rng.standard_normal(held.w_GOI.shape) * 0.2
    b = None if held.bias is None else rng.standard_normal(held.bias.shape)
    SetWeights(held.tensors(w, b))(model)
    after = ir.to_proto(in_integers(model))
    found = arrays(after)
    named = [one for one in found if found[one].dtype == np.int32]
    scale, zero = (np.asarray(found[name]).reshape(-1) for name in ("ws", "wz"))
    wide = [-1, 1, 1, 1] if case.is_conv else [-1, 1] if case.given.get("transB") else [1, -1]
    got = (found["w"] - zero.astype(np.float64).reshape(wide)) * scale.astype(np.float64).reshape(wide)
    assert np.abs(layer.layout.to_matrix(got) - w).max() <= 1.6 * scale.max()
    if named and b is not None:
        (name,) = named
        step = np.float32(scale * found["s"]) if "s" in found else scale
        np.testing.assert_array_equal(
            found[name].reshape(-1), np.rint(b.reshape(-1) / step.astype(np.float64))
        )
    shape = (3, 5, 6, 6) if case.is_conv else (3, 5)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    expected = outputs(ir.to_proto(model), x)
    step = 0.4 if "QLinear" in case.op_type or case.op_type == "QGemm" else 1e-4
    np.testing.assert_allclose(outputs(after, x), expected, atol=1.01 * step)


def test_what_came_between_stays_open() -> None:
    model = prepare(ir.from_proto(graph(CASES[0])))
    conv = next(node for node in model.graph if node.op_type == "Conv")
    twin = ir.node("Relu", [conv.outputs[0]])
    twin.outputs[0].name = "r"
    model.graph.insert_after(conv, twin)
    conv.outputs[0].replace_all_uses_with(twin.outputs[0])
    twin.replace_input_with(0, conv.outputs[0])
    assert "Conv" in [node.op_type for node in in_integers(model).graph]


def test_nothing_to_do() -> None:
    model = ir.from_proto(graph(CASES[0]))
    assert written_form(model) is model
    assert in_integers(model) is model
