"""Operators that ONNX defines as functions: written out where the tables have no rule for them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from canonical_forms import operators
from onnx import helper

from obs_onnx.passes.canonical.canonicalize import plain
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.canonical.plainer.functions import ExpandOperators
from obs_onnx.passes.channels.coupling import couple

NEWEST = onnx.defs.onnx_opset_version()


def single(
    op_type: str, inputs: dict[str, tuple[int, list[int]]], opset: int, outputs: int = 1, **attributes
):
    node = helper.make_node(op_type, list(inputs), [f"y{k}" for k in range(outputs)], name="n", **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_empty_tensor_value_info(f"y{k}") for k in range(outputs)],
    )
    return ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    )


@pytest.mark.skipif(NEWEST < 28, reason="this onnx has no SwiGLU")
def test_defaults_of_attributes_are_those_of_the_operator() -> None:
    found = plain(single("SwiGLU", {"a": (1, [2, 4]), "b": (1, [2, 4])}, 28))
    assert operators(found) == ["Swish", "Mul"]
    assert found.graph.node(0).attributes.get_float("alpha") == 1.0
    found = plain(single("SwiGLU", {"a": (1, [2, 4]), "b": (1, [2, 4])}, 28, alpha=0.5))
    assert found.graph.node(0).attributes.get_float("alpha") == 0.5


@pytest.mark.parametrize("opset", [13, 18, NEWEST])
@pytest.mark.parametrize("outputs", [1, 2])
def test_a_function_that_depends_on_the_case(run_model, opset: int, outputs: int) -> None:
    model = single(
        "SoftmaxCrossEntropyLoss",
        {"x": (1, [3, 5]), "t": (7, [3])},
        opset,
        outputs=outputs,
        reduction="mean",
        ignore_index=-1,
    )
    found = plain(model)
    assert "SoftmaxCrossEntropyLoss" not in operators(found)
    assert "LogSoftmax" in operators(found)
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    log = x - np.log(np.exp(x).sum(1, keepdims=True))
    for value, kind in zip(found.graph.outputs, ([], [3, 5]), strict=False):
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(kind)
    loss, *more = run_model(found, {"x": x, "t": np.array([1, -1, 4])}).values()
    np.testing.assert_allclose(loss, -(log[0, 1] + log[2, 4]) / 2, rtol=1e-5)
    assert [y.shape for y in more] == [(3, 5)] * (outputs - 1)


@pytest.mark.parametrize(
    ("op_type", "inputs", "opset", "attributes"),
    [
        ("Gelu", {"x": (1, [2, 3])}, 20, {}),  # has rules
        ("LayerNormalization", {"x": (1, [2, 3]), "s": (1, [3])}, 17, {}),
        ("Bernoulli", {"x": (1, [2, 3])}, 15, {}),  # random
        ("DynamicQuantizeLinear", {"x": (1, [2, 3])}, 11, {}),  # quantizes
        ("AffineGrid", {"t": (1, [2, 2, 3]), "s": (7, [4])}, 20, {}),  # needs an If
        ("Det", {"x": (1, [3, 3])}, 13, {}),  # no function
    ],
)
def test_what_stays(op_type: str, inputs, opset: int, attributes) -> None:
    outputs = 3 if op_type == "DynamicQuantizeLinear" else 1
    model = single(op_type, inputs, opset, outputs=outputs, **attributes)
    assert not ExpandOperators().call(model).modified
    assert operators(plain(model)) == [op_type]


def test_channels_show_through_a_function(make_model) -> None:
    """Cropped on other axes, and gone on this one."""
    rng = np.random.default_rng(0)
    model = make_model(
        "g (float[N,3,8,8] x) => (float[N,2,4,4] y) { h = Conv(x, w1) r = Relu(h) "
        " c = CenterCropPad<axes = [2, 3]>(r, size) y = Conv(c, w2) }",
        {
            "w1": rng.standard_normal((6, 3, 1, 1)).astype(np.float32),
            "w2": rng.standard_normal((2, 6, 1, 1)).astype(np.float32),
            "size": np.array([4, 4]),
        },
    )
    coupling = couple(prepare(model))
    assert [(group.name, group.n) for group in coupling.groups] == [("w1[0]", 6)]
