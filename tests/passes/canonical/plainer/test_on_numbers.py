"""Operators on integers as operators on numbers that are rounded to them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from nets import run_proto
from onnx import TensorProto, helper, numpy_helper

from obs_onnx.passes.canonical.plainer.on_numbers import on_numbers

OWN = "com.microsoft"
PARAMETERS = {"s": np.float32(0.02), "z": np.asarray(100, np.uint8), "t": np.float32(0.03)}
THREE = ["a", "s", "z"]


def model(nodes: list, constants: dict | None = None) -> ir.Model:
    """Integers ``a`` of the input, ``y`` of integers ``b``."""
    first = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["a"], name="first")
    graph = helper.make_graph(
        [first, *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in {**PARAMETERS, **(constants or {})}.items()],
    )
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid(OWN, 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def node(op_type: str, inputs: list[str], output: str = "b", domain: str = OWN, **attributes):
    return helper.make_node(op_type, inputs, [output], name=output, domain=domain, **attributes)


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"),
    [
        ("QLinearAdd", [*THREE, *THREE, "t", "z"], {}),
        ("QLinearMul", [*THREE, *THREE, "t", "z"], {}),
        ("QLinearSigmoid", [*THREE, "t", "z"], {}),
        ("QLinearLeakyRelu", [*THREE, "t", "z"], {"alpha": 0.2}),
        ("QLinearGlobalAveragePool", [*THREE, "t", "z"], {"channels_last": 0}),
        ("QLinearAveragePool", [*THREE, "t", "z"], {"kernel_shape": [2, 2]}),
        ("QLinearConcat", ["t", "z", *THREE, *THREE], {"axis": 1}),
        ("QLinearMatMul", [*THREE, *THREE, "t", "z"], {"domain": ""}),
    ],
)
def test_a_counterpart_gives_the_same_up_to_a_step(op_type, inputs, attributes, rng) -> None:
    last = node("DequantizeLinear", ["b", "t", "z"], "y", "")
    given = model([node(op_type, inputs, **attributes), last])
    found = on_numbers(given)
    assert not any(one.op_type.startswith("QLinear") for one in found.graph)
    assert any(one.op_type == op_type for one in given.graph)
    feed = {"x": rng.standard_normal((2, 4, 6, 6)).astype(np.float32) / 2}
    before, after = (run_proto(ir.to_proto(one), feed)["y"] for one in (given, found))
    assert before.std() > 0.01
    assert np.abs(before - after).max() <= 0.0301


@pytest.mark.parametrize(
    "moved",
    [
        node("MaxPool", ["a"], domain="", kernel_shape=[2, 2]),
        node("Transpose", ["a"], domain="", perm=[0, 2, 3, 1]),
        node("Reshape", ["a", "shape"], domain=""),
    ],
    ids=lambda one: one.op_type,
)
def test_integers_are_chosen_and_moved_as_numbers(moved, rng) -> None:
    constants = {"shape": np.array([2, -1])}
    given = model([moved, node("DequantizeLinear", ["b", "s", "z"], "y", "")], constants)
    found = on_numbers(given)
    assert [one.op_type for one in found.graph] == ["QuantizeLinear", "DequantizeLinear", moved.op_type]
    feed = {"x": rng.standard_normal((2, 4, 6, 6)).astype(np.float32)}
    before, after = (run_proto(ir.to_proto(one), feed)["y"] for one in (given, found))
    np.testing.assert_array_equal(before, after)


def test_parts_of_integers_and_several_readers(rng) -> None:
    split = helper.make_node("Split", ["a"], ["b", "c"], name="split", axis=1)
    ends = [node("DequantizeLinear", [x, "s", "z"], f"{x}{k}", "") for x in "bc" for k in range(2)]
    sums = [node("Add", ["b0", "c0"], "d", ""), node("Mul", ["b1", "c1"], "e", "")]
    sums.append(node("Add", ["d", "e"], "y", ""))
    given = model([split, *ends, *sums])
    found = on_numbers(given)
    assert [one.op_type for one in found.graph].count("DequantizeLinear") == 1
    feed = {"x": rng.standard_normal((2, 4, 6, 6)).astype(np.float32)}
    before, after = (run_proto(ir.to_proto(one), feed)["y"] for one in (given, found))
    np.testing.assert_array_equal(before, after)


def test_what_integers_stand_for_has_to_be_the_same_for_all(rng) -> None:
    pool = node("MaxPool", ["a"], domain="", kernel_shape=[2, 2])
    ends = [node("DequantizeLinear", ["b", scale, "z"], name, "") for scale, name in (("s", "c"), ("t", "d"))]
    given = model([pool, *ends, node("Add", ["c", "d"], "y", "")])
    assert on_numbers(given) is given
