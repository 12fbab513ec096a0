"""Blocks of a graph: run one after the other they are the whole, and every node is in one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import NETS
from onnx import helper, numpy_helper
from random_graphs import BUILDERS, SIZE, build
from repository import MODELS

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.canonical.plainer.written_form import in_integers
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.costs.blocks import cut_blocks
from obs_onnx.passes.ops import lookup

ort.set_default_logger_severity(4)
BUNDLED = sorted(MODELS.glob("digits_*.onnx"))


def run(model: ir.Model, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for value in model.graph.inputs:  # inference does not know all operators
        value.dtype = value.dtype or ir.DataType.from_numpy(feed[str(value.name)].dtype)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def check_blocks(model: ir.Model, feed: dict[str, np.ndarray]) -> None:
    """Each block reads what the blocks before it gave, and in the end the outputs are those of the whole."""
    blocks = cut_blocks(model)
    inside = [str(node.name) for block in blocks for node in block.nodes]
    assert sorted(inside) == sorted(str(node.name) for node in model.graph)
    begins = [str(node.name) for node in model.graph if (op := lookup(node)) and op.macs]
    assert [block.name for block in blocks] == (begins or inside[:1])
    whole, values = run(model, feed), dict(feed)
    for block in blocks:
        assert block.name in {node.name for node in block.nodes}
        assert set(block.inputs) <= set(values)
        if block.outputs:
            part = block.model(model)
            values |= run(part, {str(v.name): values[str(v.name)] for v in part.graph.inputs})
    for name, expected in whole.items():
        np.testing.assert_allclose(values[name], expected, rtol=1e-4, atol=1e-5)


def feed_of(model: ir.Model, batch: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        str(value.name): rng.standard_normal((batch, *(int(d) for d in value.shape[1:]))).astype(np.float32)
        for value in model.graph.inputs
    }


@pytest.mark.parametrize("net", NETS)
def test_nets(net: str) -> None:
    model = prepare(ir.from_proto(NETS[net]()))
    check_blocks(model, feed_of(model))


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.stem)
def test_models(path: Path) -> None:
    model = prepare(ir.load(path))
    check_blocks(model, feed_of(model))


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(BUILDERS)), st.integers(0, 2), st.integers(0, 2**16)),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_graphs(chosen: list[tuple[str, int, int]]) -> None:
    model = prepare(ir.from_proto(build(chosen)))
    x = np.random.default_rng(1).standard_normal((2, 3, SIZE, SIZE)).astype(np.float32)
    check_blocks(model, {"x": x})


@pytest.mark.parametrize("net", NETS)
def test_smaller_models_have_the_same_blocks(net: str) -> None:
    dense = prepare(ir.from_proto(NETS[net]()))
    coupling = couple(dense)
    small = dense.clone()
    keep = {group.id: np.arange(group.n) < max(1, group.n // 2) for group in coupling.groups}
    RemoveChannels(keep, coupling.of(small)).call(small)
    assert [(b.name, b.kind) for b in cut_blocks(small)] == [(b.name, b.kind) for b in cut_blocks(dense)]
    check_blocks(small, feed_of(small))


def names(model: ir.Model) -> dict[str, tuple[str, ...]]:
    return {block.name: tuple(str(node.name) for node in block.nodes) for block in cut_blocks(model)}


def test_a_join_goes_to_the_later_block(make_model) -> None:
    text = """g (float[N,4] x) => (float[N,4] y) {
        [one] a = MatMul (x, w)
        [two] b = MatMul (a, w)
        [late] c = Relu (a)
        [join] y = Add (b, c)
    }"""
    model = make_model(text, {"w": np.eye(4, dtype=np.float32)})
    assert names(model) == {"one": ("one", "late"), "two": ("two", "join")}
    first, second = cut_blocks(model)
    assert (first.inputs, set(first.outputs)) == (("x",), {"a", "c"})
    assert (set(second.inputs), second.outputs) == ({"a", "c"}, ("y",))


def test_what_comes_first_goes_to_its_first_reader(make_model) -> None:
    text = """g (float[N,4] x) => (float[N,4] y, float[N,4] z, float[N,4] u) {
        [scale] a = Mul (x, s)
        [alone] u = Abs (x)
        [one] b = MatMul (a, w)
        [two] z = MatMul (x, w)
        [end] y = Sub (b, a)
    }"""
    model = make_model(text, {"w": np.eye(4, dtype=np.float32), "s": np.float32(2)})
    assert names(model) == {"one": ("scale", "alone", "one", "end"), "two": ("two",)}


def test_without_layers_there_is_one_block(make_model) -> None:
    model = make_model("g (float[N,4] x) => (float[N,4] y) { [a] u = Relu (x)  [b] y = Exp (u) }")
    (block,) = cut_blocks(model)
    assert (block.inputs, block.outputs, len(block.nodes)) == (("x",), ("y",), 2)
    assert block.kind == "Relu"


def test_bodies_read_outer_values(make_model) -> None:
    text = """g (float[N,4] x, bool c) => (float[N,4] y) {
        [one] a = MatMul (x, w)
        [two] b = MatMul (a, w)
        [if] y = If (c) <then_branch = t () => (float[N,4] p) { p = Relu (a) },
                         else_branch = e () => (float[N,4] q) { q = Exp (b) }>
    }"""
    model = prepare(make_model(text, {"w": np.eye(4, dtype=np.float32)}))
    assert names(model) == {"one": ("one",), "two": ("two", "if")}
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    for condition in (True, False):
        check_blocks(model, {"x": x, "c": np.array(condition)})


@pytest.mark.parametrize(
    ("attributes", "shape", "kind"),
    [
        ("", (8, 4, 3, 3), "Conv 3x3"),
        ("strides = [2, 2]", (8, 4, 3, 3), "Conv 3x3 2/2"),
        ("group = 4", (8, 1, 3, 3), "Conv 3x3 depthwise"),
        ("group = 2", (8, 2, 1, 1), "Conv 1x1"),
    ],
)
def test_kinds(make_model, attributes: str, shape: tuple[int, ...], kind: str) -> None:
    options = f"<{attributes}>" if attributes else ""
    text = f"g (float[N,4,6,6] x) => (float[N,8,H,V] y) {{ y = Conv {options} (x, w) }}"
    (block,) = cut_blocks(make_model(text, {"w": np.ones(shape, np.float32)}))
    assert block.kind == kind


def test_kinds_of_products(make_model) -> None:
    text = "g (float[4,4] x) => (float[4,4] y) { a = MatMul (x, w)  y = MatMul (a, x) }"
    first, second = cut_blocks(make_model(text, {"w": np.ones((4, 4), np.float32)}))
    assert (first.kind, second.kind) == ("MatMul constant", "MatMul")


def test_the_model_is_shared_and_unchanged() -> None:
    model = prepare(ir.from_proto(NETS["residual"]()))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    for block in cut_blocks(model):
        onnx.checker.check_model(ir.to_proto(block.model(model)))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("op_type", ["QLinearConv", "Conv"])
def test_integers_go_between_blocks(op_type: str) -> None:
    """A layer is timed with the conversions next to it, which runtimes compute with it in integers."""
    rng = np.random.default_rng(3)
    held = {"s": np.float32(0.05), "z": np.uint8(128), "zero": np.int8(0)}
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q0"])]
    for k, (rows, columns) in enumerate([(8, 3), (6, 8), (4, 6)]):
        held[f"w{k}"] = rng.integers(-99, 99, (rows, columns, 1, 1)).astype(np.int8)
        inputs = [f"q{k}", "s", "z", f"w{k}", "s", "zero", "s", "z"]
        nodes.append(helper.make_node("QLinearConv", inputs, [f"q{k + 1}"], name=f"c{k}"))
    nodes.append(helper.make_node("DequantizeLinear", ["q3", "s", "z"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 5, 5])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 4, 5, 5])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    model = prepare(ir.from_proto(proto))
    if op_type == "QLinearConv":
        model = in_integers(model)
    check_blocks(model, {"x": rng.standard_normal((2, 3, 5, 5)).astype(np.float32)})
    assert [block.inputs for block in cut_blocks(model)] == [("x",), ("q1",), ("q2",)]
    assert {block.kind for block in cut_blocks(prepare(ir.from_proto(proto)))} == {"Conv 1x1"}
