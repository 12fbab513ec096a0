"""Blocks are opened and packed again: the same bytes, or other blocks of what is left."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from integer_graphs import FORMS, Form, graph
from onnx import helper, numpy_helper

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.canonical.plainer import blocks
from obs_onnx.passes.canonical.plainer.blocks import OpenBlocks
from obs_onnx.passes.canonical.plainer.written_form import written_form
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.ops.quantized.weights import multiplied

BITS = [form for form in FORMS if form.op == "MatMulNBits"]


def outputs(model: ir.Model | onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    return ort.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]


def held(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


def with_bias(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same with a bias, scales in one axis, and an attribute of the runtime."""
    tensors = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    node, extra = proto.graph.node[0], {"bias": np.arange(6, dtype=np.float32)}
    extra |= {name: tensors[name].reshape(-1) for name in ("s", "z") if name in tensors}
    node.input.extend([""] * (5 - len(node.input)) + ["bias"])
    node.attribute.append(helper.make_attribute("accuracy_level", 1))
    kept = [one for one in proto.graph.initializer if one.name not in extra]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend([*kept, *(numpy_helper.from_array(a, name) for name, a in extra.items())])
    return proto


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("form", BITS, ids=str)
def test_there_and_back_are_the_same_bytes(form: Form, bias: bool) -> None:
    proto = with_bias(graph(form)) if bias else graph(form)
    original = ir.from_proto(proto)
    for canonical in (True, False):
        opened = prepare(original, canonical)
        assert "MatMulNBits" not in [node.op_type for node in opened.graph]
        x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
        np.testing.assert_allclose(outputs(opened, x), outputs(proto, x), rtol=1e-3, atol=1e-3)
        again = written_form(opened)
        (node,) = again.graph
        before = original.graph[0]
        assert {name: one.value for name, one in node.attributes.items()} == {
            name: one.value for name, one in before.attributes.items()
        }
        assert [v and v.name for v in node.inputs] == [v and v.name for v in before.inputs]
        for name, array in held(original).items():
            np.testing.assert_array_equal(held(again)[name], array)


@pytest.mark.parametrize("form", BITS, ids=str)
def test_single_inputs_go_and_blocks_are_made_anew(form: Form) -> None:
    proto = graph(form)
    node = helper.make_node("MatMul", ["x", "first"], ["h"], name="before")
    proto.graph.node.insert(0, node)
    proto.graph.node[1].input[0] = "h"
    first = np.random.default_rng(5).standard_normal((64, 64)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(first, "first"))
    opened = prepare(ir.from_proto(proto))
    coupling = couple(opened)
    (group,) = coupling.groups
    assert group.n == 64
    keep = np.random.default_rng(6).random(64) < 0.7
    RemoveChannels({group.id: keep}, coupling).call(opened)
    packed = written_form(opened)
    (layer,) = [one for one in packed.graph if one.op_type == "MatMulNBits"]
    assert layer.attributes["K"].as_int() == keep.sum()
    w, rounded = (
        multiplied(node, found)
        for model in (opened, packed)
        for node in model.graph
        if (found := blocks.linear(node)) is not None and found.integers is not None
    )
    scale = np.abs(rounded).max()
    assert np.abs(w.T - rounded).max() < scale * 2.0 ** -int(form.kind[4:])
    onnx.checker.check_model(ir.to_proto(packed))
    assert outputs(packed, np.zeros((2, 64), np.float32)).shape == (2, 6)


def test_what_serves_several_nodes_stays() -> None:
    proto = graph(BITS[0])
    twin = onnx.NodeProto()
    twin.CopyFrom(proto.graph.node[0])
    twin.name, twin.output[0] = "twin", "other"
    proto.graph.node.append(twin)
    proto.graph.output.append(helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, ["N", 6]))
    model = ir.from_proto(proto)
    assert not OpenBlocks().call(model).modified
    assert written_form(model) is model
    assert [len(layer.uses) for layer in find_layers(model)[0]] == [2]


def test_very_many_weights_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_ROOM", 300)
    assert not OpenBlocks().call(ir.from_proto(graph(BITS[0]))).modified
