"""Branches that can be left out: found in residual nets, and gone without any difference to zeros."""

from __future__ import annotations

import nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from nets import run_proto
from onnx import TensorProto, helper, numpy_helper

from obs_onnx.io.onnx_file import from_proto
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.branches import LeaveOut, find_branches
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.layers.find_layers import find_layers


def blocks_net(extra_reader: bool = False, gated: bool = False) -> onnx.ModelProto:
    """x -> Conv -> Relu -> a; b = Relu(a + Conv(Relu(Conv(a)))); y = Gemm(mean(b))."""
    random = np.random.default_rng(0)
    weights = {
        "w0": random.normal(size=(6, 3, 3, 3)),
        "w1": random.normal(size=(5, 6, 3, 3)) / 5,
        "w2": random.normal(size=(6, 5, 3, 3)) / 5,
        "b2": random.normal(size=6),
        "w3": random.normal(size=(6, 4)),
    }
    pads = {"pads": [1, 1, 1, 1]}
    inner = "g" if gated else "h"
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c"], **pads),
        helper.make_node("Relu", ["c"], ["a"]),
        helper.make_node("Conv", ["a", "w1"], ["d"], **pads),
        helper.make_node("Relu", ["d"], ["h"]),
        *([helper.make_node("Sigmoid", ["h"], ["g"])] if gated else []),
        helper.make_node("Conv", [inner, "w2", "b2"], ["e"], **pads),
        helper.make_node("Add", ["e", "a"] if gated else ["a", "e"], ["s"]),
        helper.make_node("Relu", ["s"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["y"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])]
    if extra_reader:
        nodes.append(helper.make_node("ReduceMean", ["h"], ["z"]))
        outputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    graph = helper.make_graph(
        nodes,
        "blocks",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        outputs,
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def prepared(proto: onnx.ModelProto) -> ir.Model:
    return prepare(from_proto(proto))


@pytest.mark.parametrize("gated", [False, True])
def test_the_inside_of_a_block_can_go(gated: bool) -> None:
    model = prepared(blocks_net(gated=gated))
    coupling = couple(model)
    found = find_branches(coupling, find_layers(model)[0])
    inner = next(group for group in coupling.groups if group.n == 5)
    assert list(found) == [inner.id]
    assert found[inner.id].layers == ("w2",)
    dead = {node.op_type for node in model.graph if node.name in found[inner.id].dead}
    assert dead == {"Conv", "Relu"} | ({"Sigmoid"} if gated else set())


def test_not_where_something_else_reads_it() -> None:
    model = prepared(blocks_net(extra_reader=True))
    assert not find_branches(couple(model), find_layers(model)[0])


@pytest.mark.parametrize("name", ["mlp", "mobile"])
def test_chains_have_none(name: str) -> None:
    model = prepared(nets.NETS[name]())
    coupling = couple(model)
    for group, branch in find_branches(coupling, find_layers(model)[0]).items():
        assert branch.dead, coupling.groups[group].name


@pytest.mark.parametrize("gated", [False, True])
def test_left_out_equals_zeros(gated: bool) -> None:
    model = prepared(blocks_net(gated=gated))
    for name in ("w2", "b2"):
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(np.zeros(value.const_value.shape.numpy(), np.float32), name=name)
    feed = {"x": nets.data(3, 4, 3, 8, 8)}
    before = run_proto(ir.to_proto(model), feed)["y"]
    LeaveOut(["w2"])(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    assert [node.op_type for node in model.graph].count("Conv") == 1
    assert [node.op_type for node in model.graph].count("Relu") == 1
    assert "Add" not in {node.op_type for node in model.graph[:4]}
    np.testing.assert_allclose(run_proto(proto, feed)["y"], before, rtol=1e-6, atol=1e-6)


def test_refuses_what_is_not_only_added() -> None:
    model = prepared(blocks_net())
    with pytest.raises(ValueError, match="not only added"):
        LeaveOut(["w0"])(model)
