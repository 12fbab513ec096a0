"""The Add behind a product: when its constant is a bias."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.passes.layers.bias import bias_add, bias_candidate
from obs_onnx.passes.ops import lookup
from obs_onnx.passes.shapes.infer_shapes import InferShapes
from obs_onnx.passes.traits.linear import Linear


def product(model: ir.Model) -> tuple[ir.Value, Linear]:
    InferShapes().call(model)
    node = next(node for node in model.graph if node.op_type == "MatMul")
    linear = lookup(node).linear(node)
    assert isinstance(linear, Linear)
    return node.outputs[0], linear


@pytest.mark.parametrize(
    ("x", "y", "w", "bias", "text"),
    [
        ("N,4", "N,3", (4, 3), (3,), "h = MatMul(x, w)  y = Add(h, b)"),
        ("N,4", "N,3", (4, 3), (1, 3), "h = MatMul(x, w)  y = Add(b, h)"),
        ("4,N", "3,N", (3, 4), (3, 1), "h = MatMul(w, x)  y = Add(h, b)"),
        ("6,N,4", "6,N,3", (6, 4, 3), (6, 1, 3), "h = MatMul(x, w)  y = Add(h, b)"),
    ],
)
def test_one_number_for_each_output(make_model, x: str, y: str, w: tuple, bias: tuple, text: str) -> None:
    tensors = {"w": np.ones(w, np.float32), "b": np.ones(bias, np.float32)}
    model = make_model(f"g (float[{x}] x) => (float[{y}] y) {{ {text} }}", tensors)
    h, linear = product(model)
    add, index = bias_candidate(h, linear)
    assert add is model.graph[1]
    assert add.inputs[index].name == "b"
    assert [value.name for value in bias_add(h, linear)] == ["y", "b"]


@pytest.mark.parametrize(
    ("w", "bias", "text"),
    [
        ((4, 3), (3, 1), "h = MatMul(x, w)  y = Add(h, b)"),  # one number for each position
        ((4, 3), (3, 3), "h = MatMul(x, w)  y = Add(h, b)"),
        ((4, 3), (1, 1, 3), "h = MatMul(x, w)  y = Add(h, b)"),  # the sum has more axes than the product
        ((4, 3), (3,), "h = MatMul(x, w)  a = Add(h, b)  y = Mul(a, h)"),  # the product serves others too
        ((4, 3), (3,), "h = MatMul(x, w)  y = Sub(h, b)"),
        ((4, 3), (3,), "h = MatMul(x, w)  c = Neg(b)  y = Add(h, c)"),  # computed, not stored
    ],
)
def test_other_sums_are_no_bias(make_model, w: tuple, bias: tuple, text: str) -> None:
    tensors = {"w": np.ones(w, np.float32), "b": np.ones(bias, np.float32)}
    shape = "A,B,C" if len(bias) == 3 else "A,B"
    model = make_model(f"g (float[3,4] x) => (float[{shape}] y) {{ {text} }}", tensors)
    h, linear = product(model)
    assert bias_candidate(h, linear) is None
    assert bias_add(h, linear) == (h, None)


def test_a_bias_that_others_use_is_one_to_be_copied_only(make_model) -> None:
    """It could not be changed for this node alone."""
    text = "g (float[N,4] x) => (float[N,3] y) { h = MatMul(x, w)  a = Add(h, b)  y = Mul(a, b) }"
    model = make_model(text, {"w": np.ones((4, 3), np.float32), "b": np.ones(3, np.float32)})
    h, linear = product(model)
    assert bias_candidate(h, linear) is not None
    assert bias_add(h, linear) == (h, None)


def test_a_mask_of_infinities_is_no_bias(make_model) -> None:
    text = "g (float[N,4] x) => (float[N,3] y) { h = MatMul(x, w)  y = Add(h, b) }"
    mask = np.array([0, -np.inf, 0], np.float32)
    model = make_model(text, {"w": np.ones((4, 3), np.float32), "b": mask})
    h, linear = product(model)
    assert bias_add(h, linear) == (h, None)
