"""What the tables know, held against all schemas of the installed ``onnx`` and ``onnxruntime``."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from obs_onnx.passes.autodiff.gradient import Gradient
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.errors import GradientError
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.ops import TABLE, lookup
from obs_onnx.passes.traits import known_versions
from obs_onnx.passes.traits.known import Known
from obs_onnx.passes.traits.known_versions import CONTRIB, LOOKED_AT

WITHOUT_RULES = {
    1: """
        ai.onnx.ml::CastMap ai.onnx.ml::DictVectorizer ai.onnx.ml::ZipMap
        ai.onnx.preview.training::Adagrad ai.onnx.preview.training::Adam
        ai.onnx.preview.training::Gradient ai.onnx.preview.training::Momentum
        ai.onnx.preview::FlexAttention
    """,
    5: "ai.onnx.ml::TreeEnsemble",
    9: "TfIdfVectorizer",
    10: "StringNormalizer",
    11: "SequenceEmpty SequenceErase SequenceInsert SequenceLength",
    13: "SoftmaxCrossEntropyLoss",
    17: "BlackmanWindow HammingWindow HannWindow MelWeightMatrix STFT",
    18: "CenterCropPad",
    20: "AffineGrid ImageDecoder RegexFullMatch StringConcat StringSplit",
    22: "NegativeLogLikelihoodLoss",
    26: "BitCast CumProd",
    28: "Optional OptionalGetElement OptionalHasElement SwiGLU",
}
"""All other operators of ONNX, with the newest version that there was when nobody wanted a rule for them."""

NEWEST = {
    f"{schema.domain}::{schema.name}" if schema.domain else schema.name: schema.since_version
    for schema in onnx.defs.get_all_schemas()
}


@pytest.mark.parametrize("name", NEWEST)
def test_somebody_looked_at_the_newest_version_of_every_operator(name: str) -> None:
    left_out = {each: version for version, text in WITHOUT_RULES.items() for each in text.split()}
    assert (name in LOOKED_AT) != (name in left_out), f"{name} is in no list, or in both"
    seen = LOOKED_AT.get(name) or left_out[name]
    assert NEWEST[name] <= seen, (
        f"read what version {NEWEST[name]} of {name} brings, let its rules follow or refuse it, then raise "
        f"the number {seen}"
    )


def test_every_operator_of_the_tables_knows_what_it_was_written_for() -> None:
    assert {*LOOKED_AT, *CONTRIB} == set(TABLE)
    for name, op in TABLE.items():
        assert op.known is not None
        assert (op.known.last or 0) <= LOOKED_AT.get(name, 1)


def test_operators_of_onnxruntime_have_no_attributes_and_inputs_that_nobody_looked_at() -> None:
    listed = getattr(onnxruntime.capi.onnxruntime_pybind11_state, "get_all_operator_schema", None)
    if listed is None:
        pytest.skip("this onnxruntime does not tell its schemas")
    found = 0
    for schema in listed():
        name = f"{schema.domain}::{schema.name}" if schema.domain else schema.name
        if (known := CONTRIB.get(name)) is None:
            continue
        found += 1
        assert schema.since_version == (known.last or 1)
        assert set(schema.attributes) <= known.attributes, name
        left_alone = {"com.microsoft::GroupQueryAttention"}  # lengths of queries are refused
        assert known.inputs in (len(schema.inputs), None) or name in left_alone, name
        assert len(schema.outputs) <= (known.outputs or 0), name
    assert found > 20


def model(op_type, inputs=("x",), outputs=("y",), opset=17, domain="", weight=None, **attributes):
    """One node on x (1, 4, 4, 4) under a Relu, on the way to y."""
    node = helper.make_node(op_type, inputs, outputs, name="node", domain=domain, **attributes)
    nodes = [node, helper.make_node("Relu", [outputs[0]], ["z"], name="relu")]
    held = [] if weight is None else [numpy_helper.from_array(weight, "w")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 4, 4])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        held,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8))


@pytest.mark.parametrize(
    ("built", "reason"),
    [
        (model("Relu", shift=1.0), "its attribute 'shift' is not known"),
        (model("Relu", inputs=("x", "x")), "its input 1 is not known"),
        (model("Relu", outputs=("y", "mask")), "its output 1 is not known"),
        (model("Add", inputs=("x", "x"), opset=6, axis=1), "its attribute 'axis' is not known"),
        (
            model("Reshape", opset=1, shape=[4, 16]),
            "its attribute 'shape' is not known",
        ),
        (
            model("QuickGelu", domain="com.microsoft", beta=1.0),
            "its attribute 'beta' is not known",
        ),
        (
            model("Relu", opset=onnx.defs.onnx_opset_version() + 1),
            f"its version of opset {onnx.defs.onnx_opset_version() + 1} is not known",
        ),
    ],
)
def test_a_node_that_is_more_than_its_rules_know_has_none(built: ir.Model, reason: str) -> None:
    node = built.graph[0]
    op = lookup(node)
    assert op.foreign == reason
    assert op.lipschitz is None
    assert op.macs is None
    assert not op.idempotent
    assert not op.view
    assert not op.shape_only


def test_attributes_with_their_default_value_and_empty_inputs_do_not_count() -> None:
    assert lookup(model("Relu").graph[0]).foreign is None
    assert lookup(model("Relu", inputs=("x", "")).graph[0]).foreign is None
    norm = ("x", "w", "w", "w", "w")
    assert lookup(model("BatchNormalization", norm, opset=7, spatial=1).graph[0]).foreign is None
    assert lookup(model("BatchNormalization", norm, opset=7, spatial=0).graph[0]).foreign is not None
    assert lookup(model("Add", inputs=("x", "x"), opset=6, broadcast=1).graph[0]).foreign is None


def test_a_version_that_nobody_looked_at_is_not_known(monkeypatch) -> None:
    node = model("Relu", opset=14).graph[0]
    before = Known(13, frozenset({"consumed_inputs"}), 1, 1)
    assert before.exceeded(node) == "its version 14 is not known, only those up to 13"
    assert before.exceeded(model("Relu", opset=13).graph[0]) is None
    monkeypatch.setitem(known_versions.LOOKED_AT, "Relu", 13)
    assert known_versions.known("Relu") == before


def test_nodes_in_bodies_know_their_version() -> None:
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("Relu", ["x"], [f"{name}_y"], shift=1.0)],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)],
        )
        for name in ("then", "else")
    }
    built = model("If", inputs=("w",), weight=np.array(True), **branches)
    body = canonicalize(built).graph[0].attributes["then_branch"].as_graph()
    assert node_facts.version(body[0]) == 17
    assert lookup(body[0]).foreign == "its attribute 'shift' is not known"


def test_what_it_means_for_layers_gradients_and_channels() -> None:
    weight = np.ones((4, 4, 1, 1), np.float32)
    built = canonicalize(model("Conv", inputs=("x", "w"), weight=weight, shift=1.0))
    layers, frozen = find_layers(built)
    assert not layers
    assert [one.reason for one in frozen] == ["its attribute 'shift' is not known"]
    coupling = couple(built)
    assert [str(reason) for _, reason in coupling.graph.frozen][:1] == ["its attribute 'shift' is not known"]
    node = helper.make_node("ReduceSum", ["z"], ["loss"], keepdims=0)
    proto = ir.to_proto(built)
    proto.graph.node.append(node)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("loss", TensorProto.FLOAT, []))
    with pytest.raises(GradientError, match="'node' \\(Conv\\): its attribute 'shift' is not known"):
        Gradient("loss", ["w"]).call(ir.from_proto(proto))
