"""Weights that are stored as integers, as numbers behind the rounding."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from integer_graphs import FORMS, graph
from nets import run_proto

from obs_onnx.io.onnx_file import from_proto
from obs_onnx.passes.autodiff.optimizers import SGD
from obs_onnx.passes.autodiff.rounding import in_numbers
from obs_onnx.passes.autodiff.training_step import Term, loss_graph, training_step
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.canonical.own_constants import with_open_blocks

TEXT = "g (float[N, 2] x) => (float[N, 3] y) { w = DequantizeLinear(q, s, z)  y = MatMul(x, w) }"
Q = np.array([[-128, 3, 0], [5, 127, 40]], np.int8)
SCALE, ZERO = np.float32(0.5), np.asarray(3, np.int8)


@pytest.fixture
def model(make_model) -> ir.Model:
    return canonicalize(make_model(TEXT, {"q": Q, "s": SCALE, "z": ZERO}, opset=13))


def test_a_step_by_hand(model, rng) -> None:
    student, roundings = in_numbers(model)
    assert list(roundings) == ["q"]
    assert [node.op_type for node in student.graph] == ["MatMul"]
    assert [node.op_type for node in model.graph] == ["DequantizeLinear", "MatMul"]
    w = student.graph.initializers["q"].const_value.numpy()
    np.testing.assert_array_equal(w, (Q.astype(np.float32) - 3) * 0.5)

    behind = w + np.array([[-5.0, 0.2, 0.1], [0.3, 7.0, -0.2]], np.float32)  # two of them outside
    step = training_step(student, [Term("mse", "y", "t")], ["q"], SGD(0.0), roundings=roundings)
    x, t = rng.standard_normal((4, 2)).astype(np.float32), rng.standard_normal((4, 3)).astype(np.float32)
    scalars = {
        name: np.array(0.1 if which == "rate" else 0.0, np.float32) for which, name in step.scalars.items()
    }
    slots = dict.fromkeys(step.slots, np.zeros_like(w))
    found = run_proto(ir.to_proto(step.model), {"x": x, "t": t, "q": behind, **scalars, **slots})
    steps = np.rint(behind / SCALE)
    read = np.clip(steps, -131, 124) * SCALE
    inside = (steps >= -131) & (steps <= 124)
    np.testing.assert_array_equal(inside, [[False, True, True], [True, False, True]])
    np.testing.assert_allclose(found[step.loss], np.mean((x @ read - t) ** 2), rtol=1e-5)
    gradient = x.T @ (2 * (x @ read - t) / t.size) * inside
    np.testing.assert_allclose(found["q.next"], behind - 0.1 * gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(roundings["q"].integers(behind), np.clip(steps + 3, -128, 127))


PACKED = [form for form in FORMS if form.op == "MatMulNBits"]


@pytest.mark.parametrize(
    ("form", "opened"), [*((form, True) for form in FORMS), *((form, False) for form in PACKED)], ids=str
)
def test_the_rounded_weight_is_what_the_written_integers_stand_for(form, opened, rng) -> None:
    model = canonicalize(from_proto(graph(form)))
    model = with_open_blocks(model) if opened else model
    student, roundings = in_numbers(model)
    (name,) = roundings
    w = student.graph.initializers[name].const_value.numpy()
    assert roundings[name].integers(w).dtype == model.graph.initializers[name].const_value.numpy().dtype
    np.testing.assert_array_equal(  # what is not trained is what it was
        roundings[name].integers(w).astype(int),
        model.graph.initializers[name].const_value.numpy().astype(int),
    )
    moved = (w + rng.standard_normal(w.shape) * 0.05).astype(np.float32)
    graph_of_loss, _ = loss_graph(student, [Term("mse", "y", "t")], [name], ["y"], roundings=roundings)
    shape = (2, 64, 5, 5) if form.op == "Conv" else (2, 64)
    x = rng.standard_normal(shape).astype(np.float32)
    y = run_proto(ir.to_proto(model), {"x": x})["y"]
    found = run_proto(ir.to_proto(graph_of_loss), {"x": x, "t": np.zeros_like(y), name: moved})["y"]
    q = model.graph.initializers[name]
    q.const_value = ir.Tensor(roundings[name].integers(moved), dtype=q.const_value.dtype, name=name)
    written = run_proto(ir.to_proto(model), {"x": x})["y"]
    assert np.abs(written - y).max() > 0.05
    np.testing.assert_allclose(found, written, rtol=1e-4, atol=1e-4)


def test_biases_of_integers_come_along(make_model) -> None:
    text = """g (float[N, 2, 4, 4] x) => (float[N, 3, 2, 2] y) {
        a = QuantizeLinear(x, sx, zx)  b = DequantizeLinear(a, sx, zx)
        w = DequantizeLinear <axis = 0> (q, s)  c = DequantizeLinear <axis = 0> (qb, sb)  y = Conv(b, w, c)
    }"""
    scales = np.array([0.1, 0.2, 0.05], np.float32)
    arrays = {
        "sx": np.float32(0.5),
        "zx": np.asarray(0, np.uint8),
        "q": np.arange(54).reshape(3, 2, 3, 3).astype(np.int8),
        "s": scales,
        "qb": np.array([100, -2000, 70000], np.int32),
        "sb": scales * np.float32(0.5),
    }
    student, roundings = in_numbers(canonicalize(make_model(text, arrays, opset=13)))
    assert set(roundings) == {"q", "qb"}
    bias = student.graph.initializers["qb"].const_value.numpy()
    np.testing.assert_allclose(bias, arrays["qb"] * arrays["sb"], rtol=1e-6)
    np.testing.assert_array_equal(roundings["qb"].integers(bias), arrays["qb"])
    assert roundings["qb"].integers(bias).dtype == np.int32
    onnx.checker.check_model(ir.to_proto(student), full_check=True)


def test_a_model_of_numbers_is_itself(make_model) -> None:
    text = "g (float[N, 2] x) => (float[N, 3] y) { y = MatMul(x, w) }"
    model = canonicalize(make_model(text, {"w": np.ones((2, 3), np.float32)}))
    assert in_numbers(model) == (model, {})
