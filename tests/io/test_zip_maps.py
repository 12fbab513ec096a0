"""Classifiers whose scores are maps: tensors inside, maps again in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from exported import prune_and_compare, run, signature
from onnx import TensorProto, helper, numpy_helper
from onnx_files import fails

import obs_onnx
from obs_onnx.io.onnx_file import from_proto, load_model, save_model, serialize
from obs_onnx.passes.errors import ModelError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 8)).astype(np.float32)


def classifier(
    keys: list[Any], *, scores: bool = False, float_type: int = TensorProto.FLOAT, columns: int = 3
) -> onnx.ModelProto:
    """Scaler, a hidden layer, Softmax, ZipMap; ``scores``: the tensor is an output too."""
    kind = np.float64 if float_type == TensorProto.DOUBLE else np.float32
    weights = {"w": (8, 16), "b": (16,), "v": (16, columns)}
    nodes = [
        helper.make_node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", offset=[0.1] * 8, scale=[1.1] * 8),
        helper.make_node("Cast", ["s"], ["c"], to=float_type),
        helper.make_node("MatMul", ["c", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["z"]),
        helper.make_node("Softmax", ["z"], ["p"], axis=1),
        helper.make_node("ArgMax", ["p"], ["label"], axis=1, keepdims=0),
        helper.make_node(
            "ZipMap",
            ["p"],
            ["maps"],
            name="zip",
            domain="ai.onnx.ml",
            **{f"classlabels_{'strings' if isinstance(keys[0], str) else 'int64s'}": keys},
        ),
    ]
    key = TensorProto.STRING if isinstance(keys[0], str) else TensorProto.INT64
    maps = helper.make_map_type_proto(key, helper.make_tensor_type_proto(float_type, []))
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
        helper.make_value_info("maps", helper.make_sequence_type_proto(maps)),
        *([helper.make_tensor_value_info("p", float_type, [None, columns])] if scores else []),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 8])],
        outputs,
        [
            numpy_helper.from_array(RNG.standard_normal(shape).astype(kind), name)
            for name, shape in weights.items()
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def stored(proto: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(proto, folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("keys", [[10, 20, 30], ["no", "yes", "ä"]], ids=["integers", "strings"])
def test_a_file_that_is_read_and_written_is_the_same(tmp_path: Path, keys: list[Any], scores: bool) -> None:
    path = stored(classifier(keys, scores=scores), tmp_path)
    model = load_model(path)
    assert [(one.name, one.dtype, one.shape.rank()) for one in model.graph.outputs[:2]] == [
        ("label", ir.DataType.INT64, 1),
        ("maps", ir.DataType.FLOAT, 2),
    ]
    inner, outer = run(serialize(model), {"x": X}), run(path, {"x": X})
    for found, wanted in zip(inner, outer, strict=True):
        np.testing.assert_array_equal(found, wanted)
    save_model(model, tmp_path / "again.onnx")
    again, before = onnx.load(tmp_path / "again.onnx"), onnx.load(path)
    assert list(again.graph.node) == list(before.graph.node)
    assert list(again.graph.output) == list(before.graph.output)
    onnx.checker.check_model(again, full_check=True)


@pytest.mark.parametrize("scores", [False, True])
def test_removal(tmp_path: Path, scores: bool) -> None:
    path = stored(classifier(["no", "yes", "maybe"], scores=scores), tmp_path)
    prune_and_compare(path, {"x": X})


def test_a_message_given_in_memory_stays_as_it_is(tmp_path: Path) -> None:
    proto = classifier([1, 2, 3])
    before = proto.SerializeToString(deterministic=True)
    result = obs_onnx.prune(proto, calib={"x": X}, targets={"params": 0.7}, latency=False, effort="quick")
    assert proto.SerializeToString(deterministic=True) == before
    save_model(result.model, tmp_path / "small.onnx")
    assert signature(tmp_path / "small.onnx") == signature(stored(proto, tmp_path))


def test_a_name_that_something_else_took(tmp_path: Path) -> None:
    """Where the output was made by another node meanwhile, its value gets a name beside it."""
    model = from_proto(classifier([1, 2, 3]))
    softmax = next(node for node in model.graph if node.op_type == "Softmax").outputs[0]
    copy = model.graph.outputs[1]
    twice = ir.node("Mul", [softmax, ir.val("two", const_value=ir.tensor(np.float32(2), name="two"))])
    model.graph.register_initializer(twice.inputs[1])
    twice.outputs[0].name, copy.name = "maps", "old"
    model.graph.append(twice)
    model.graph.outputs[1] = twice.outputs[0]
    twice.outputs[0].type, twice.outputs[0].shape = copy.type, copy.shape
    save_model(model, tmp_path / "m.onnx")
    _, maps = run(tmp_path / "m.onnx", {"x": X})
    np.testing.assert_allclose(maps.sum(1), 2, rtol=1e-5)


def test_numbers_that_a_map_cannot_hold(tmp_path: Path) -> None:
    fails(stored(classifier([1, 2], columns=2, float_type=TensorProto.DOUBLE), tmp_path), "'zip'", "DOUBLE")


@pytest.mark.parametrize("what", ["input", "output"])
def test_other_maps_are_named(tmp_path: Path, what: str) -> None:
    maps = helper.make_map_type_proto(
        TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    kind = maps if what == "input" else helper.make_sequence_type_proto(maps)
    value = helper.make_value_info("terms", kind)
    vector = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    words = helper.make_node(
        "DictVectorizer", ["terms"], ["y"], domain="ai.onnx.ml", string_vocabulary=["a", "b"]
    )
    given = helper.make_node("Identity", ["given"], ["terms"])
    graph = (
        helper.make_graph([words], "g", [value], [vector])
        if what == "input"
        else helper.make_graph([given], "g", [helper.make_value_info("given", kind)], [value])
    )
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)]
    )
    with pytest.raises(ModelError, match=r"its input '(terms|given)' is a map or made of maps"):
        from_proto(proto)
