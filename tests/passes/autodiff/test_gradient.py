"""Differentiation of whole graphs: what flows where, what is refused, losses, gates, second order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from float64 import double, evaluator

from obs_onnx.passes import ops
from obs_onnx.passes.autodiff.gradient import Gradient, HessianVectorProduct, find, weights
from obs_onnx.passes.autodiff.losses import append_loss
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import GradientError
from obs_onnx.passes.graph.emitter import Emitter
from obs_onnx.passes.graph.names import Names

NET = """g (float[N, 1, 6, 6] x) => (float[N, 3] z) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    h = Tanh(a)
    c = Conv <group = 2, strides = [2, 2]> (h, w2)
    s = Softplus(c)
    p = GlobalAveragePool(s)
    f = Flatten(p)
    z = Gemm(f, w3, b3)
}"""


def insert_gate(model: ir.Model, value: str, axis: int = 1, per_example: bool = False) -> str:
    """Multiply an activation with ones, one for each index of ``axis``, in front of everything that reads it.

    Args:
        model: canonical, with inferred shapes; changed in place. Its outputs keep their names.
        value: name of an activation or an input whose length along ``axis`` is static.
        axis: where the channels are.
        per_example: give each example (index of axis 0) gates of its own: the gate is then computed from the
            batch size, and its gradient has shape (N, channels).

    Returns:
        Name of the gate (``<value>.gate``), which serves as ``wrt`` of a gradient: an initializer
        (channels,), or a value (N, channels) inside the graph.

    Raises:
        GradientError: no such value, a name is taken, or the number of channels is unknown.
    """
    (x,) = find(model, [value])
    emitter = Emitter(model, Names(model), value)
    dims = emitter.dims(x)
    axis %= len(dims)
    length = dims[axis]
    if length is None:
        raise GradientError(f"axis {axis} of {value!r} has no static length")
    if per_example and axis == 0:
        raise GradientError(f"axis 0 of {value!r} counts examples and cannot be gated for each of them")
    uses = list(x.uses())
    gate = _ones(emitter, x, length, per_example)
    if gate.name != f"{value}.gate":
        raise GradientError(f"the name {value}.gate is taken in the model")
    if per_example:
        spread = emitter.unsqueeze(gate, [i for i in range(1, len(dims)) if i != axis])
    else:
        spread = emitter.reshape(gate, [-1, *[1] * (len(dims) - 1 - axis)])
    gated = emitter.shaped(emitter.mul(x, spread), x)
    if x.is_graph_output():
        gated.name, x.name = x.name, emitter.names.fresh(f"{value}.ungated")
        model.graph.outputs[list(model.graph.outputs).index(x)] = gated
    for node, index in uses:
        node.replace_input_with(index, gated)
    model.graph.sort()
    return f"{value}.gate"


def _ones(emitter: Emitter, x: ir.Value, length: int, per_example: bool) -> ir.Value:
    """Ones of shape (length,), an initializer, or (N, length), made while the graph runs."""
    assert x.dtype is not None
    if not per_example:
        ones = ir.Tensor(np.ones(length, x.dtype.numpy()), dtype=x.dtype)
        return emitter.names.initializer(f"{emitter.near}.gate", ones)
    one = ir.Tensor(np.ones(1, x.dtype.numpy()), dtype=x.dtype)
    shape = emitter.op("Concat", emitter.size_of(x, 0), emitter.ints([length]), axis=0)
    gate = emitter.op("ConstantOfShape", shape, value=one)
    gate.shape = ir.Shape([None if x.shape is None else x.shape[0], length])
    gate.name = emitter.names.fresh(f"{emitter.near}.gate")
    return gate


def net_weights(rng):
    shapes = {"w1": (4, 1, 3, 3), "b1": (4,), "w2": (6, 2, 3, 3), "w3": (6, 3), "b3": (3,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_contributions_of_all_uses_are_summed(gradient_of, rng):
    w, x = rng.standard_normal((2, 5)).astype(np.float32)
    text = """g (float[5] x) => (float loss, float[5] a) {
        a = Mul(w, w)  b = Mul(a, x)  c = Add(b, w)  d = Add(c, a)  loss = ReduceSum <keepdims = 0> (d)
    }"""
    found = gradient_of(text, {"w": w}, ["w", "x", "a"], {"x": x})
    np.testing.assert_allclose(found["w.grad"], 2 * w * x + 1 + 2 * w, rtol=1e-5)
    np.testing.assert_allclose(found["x.grad"], w * w, rtol=1e-5)
    np.testing.assert_allclose(found["a.grad"], x + 1, rtol=1e-5)
    np.testing.assert_allclose(found["a"], w * w, rtol=1e-5)


def test_an_operator_without_a_rule_is_named(gradient_of):
    text = """g (float[3, 3] x) => (float loss) { [det] d = Det(x) loss = Identity(d) }"""
    with pytest.raises(GradientError, match=r"'det'.*Det"):
        gradient_of(text, {}, ["x"])


def test_a_branch_that_reads_a_wanted_value_is_named(gradient_of, monkeypatch):
    monkeypatch.setitem(ops.TABLE, "If", replace(ops.TABLE["If"], vjp=None))
    text = """g (float x, bool c) => (float loss) {
        [branch] loss = If (c) <
            then_branch = one () => (float y) { y = Exp(x) },
            else_branch = two () => (float y) { y = Identity(x) }
        >
    }"""
    with pytest.raises(GradientError, match=r"'branch'.*If"):
        gradient_of(text, {}, ["x"])


UNCONNECTED = "g (float x, float u) => (float loss) { r = Round(x) s = Mul(r, u) loss = Exp(s) }"


def test_a_value_without_influence_is_an_error(gradient_of):
    with pytest.raises(GradientError, match="'x' does not influence the loss"):
        gradient_of(UNCONNECTED, {}, ["x", "u"])


def test_or_zeros_where_asked(gradient_of):
    feeds = {"x": np.array(2, np.float32), "u": np.array(0.5, np.float32)}
    found = gradient_of(UNCONNECTED, {}, ["x", "u"], feeds, unconnected="zeros")
    assert found["x.grad"] == 0.0
    np.testing.assert_allclose(found["u.grad"], 2 * np.e, rtol=1e-5)


@pytest.mark.parametrize(("wrt", "message"), [("i", "type is"), ("nobody", "no value 'nobody'")])
def test_what_cannot_be_wanted(gradient_of, wrt, message):
    text = "g (float[2] x, int64[1] i) => (float loss) { y = Gather(x, i) loss = ReduceSum<keepdims=0>(y) }"
    with pytest.raises(GradientError, match=message):
        gradient_of(text, {}, [wrt])


def test_the_loss_must_be_a_scalar(gradient_of):
    with pytest.raises(GradientError, match="no scalar"):
        gradient_of("g (float[2] x) => (float[2] loss) { loss = Exp(x) }", {}, ["x"])


def test_a_taken_name_is_an_error(make_model):
    model = make_model("g (float x) => (float loss) { a = Exp(x) loss = Identity(a) }")
    next(iter(model.graph)).outputs[0].name = "x.grad"
    with pytest.raises(GradientError, match="is taken"):
        Gradient("loss", ["x"]).call(model)


def test_extremes_and_products_at_their_kinks(gradient_of):
    x = np.array([2.0, 0.0, -1.0, 3.0], np.float32)
    product = "g (float[4] x) => (float loss) { loss = ReduceProd <keepdims = 0> (x) }"
    np.testing.assert_allclose(gradient_of(product, {}, ["x"], {"x": x})["x.grad"], [0, -6, 0, 0])
    two_zeros = np.where(x < 0, 0, x)
    np.testing.assert_array_equal(gradient_of(product, {}, ["x"], {"x": two_zeros})["x.grad"], 0.0)
    text = "g (float[4] x) => (float loss) { y = Max(x, x, x) loss = ReduceSum <keepdims = 0> (y) }"
    np.testing.assert_array_equal(gradient_of(text, {}, ["x"], {"x": x})["x.grad"], 1.0)


def test_weights_are_what_influences_the_loss(make_model, rng):
    arrays = {**net_weights(rng), "unused": np.ones(3, np.float32)}
    model = canonicalize(make_model(NET, arrays))
    assert weights(model, append_loss(model, "mse")) == ["w1", "b1", "w2", "w3", "b3"]


def test_gradient_and_hessian_of_a_net(make_model, rng):
    """Against central differences in float64; the Hessian is symmetric."""
    model = canonicalize(make_model(NET, net_weights(rng)))
    names = weights(model, append_loss(model, "cross_entropy"))
    HessianVectorProduct("loss", names).call(model)
    proto = double(ir.to_proto(model))
    onnx.checker.check_model(proto, full_check=True)
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    keys = [y.name for y in proto.graph.output]
    feeds = {"x": rng.standard_normal((3, 1, 6, 6)), "labels": rng.integers(0, 3, 3)}

    def at(vector, shift=0.0, direction=None):
        for tensor in proto.graph.initializer:
            if tensor.name in names:
                moved = arrays[tensor.name] + shift * (direction or vector)[tensor.name]
                tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
        vectors = {f"{name}.v": v for name, v in vector.items()}
        return dict(zip(keys, evaluator(proto).run(None, {**feeds, **vectors}), strict=True))

    u, v = ({name: rng.standard_normal(arrays[name].shape) for name in names} for _ in range(2))
    here, above, below = at(v), at(v, 1e-5), at(v, -1e-5)
    slope = sum((here[f"{name}.grad"] * v[name]).sum() for name in names)
    np.testing.assert_allclose((above["loss"] - below["loss"]) / 2e-5, slope, rtol=1e-7)
    for name in names:
        difference = (above[f"{name}.grad"] - below[f"{name}.grad"]) / 2e-5
        np.testing.assert_allclose(here[f"{name}.hvp"], difference, rtol=1e-6, atol=1e-8)
    other = at(u)
    left = sum((here[f"{name}.hvp"] * u[name]).sum() for name in names)
    right = sum((other[f"{name}.hvp"] * v[name]).sum() for name in names)
    np.testing.assert_allclose(left, right, rtol=1e-10)


def test_onnxruntime_optimizes_the_graph_without_changing_it(make_model, run_model, rng):
    model = canonicalize(make_model(NET, net_weights(rng)))
    names = weights(model, append_loss(model, "cross_entropy"))
    HessianVectorProduct("loss", names).call(model)
    feeds = {"x": rng.standard_normal((3, 1, 6, 6)).astype(np.float32), "labels": rng.integers(0, 3, 3)}
    feeds.update(
        (f"{k}.v", rng.standard_normal(v.shape).astype(np.float32)) for k, v in net_weights(rng).items()
    )
    plain = run_model(model, feeds)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for (name, expected), found in zip(plain.items(), session.run(None, feeds), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["linear", "bilinear"])
def test_products_with_a_hessian_of_zeros(make_model, run_model, kind):
    body = "a = Mul(w, x)" if kind == "linear" else "b = Mul(w, x) a = Mul(b, u)"
    text = f"g (float[2] x) => (float loss) {{ {body} loss = ReduceSum <keepdims = 0> (a) }}"
    w, u, x = np.array([1, 2], np.float32), np.array([3, 5], np.float32), np.array([7, 11], np.float32)
    arrays = {"w": w} if kind == "linear" else {"w": w, "u": u}
    model = canonicalize(make_model(text, arrays))
    HessianVectorProduct("loss", list(arrays)).call(model)
    found = run_model(model, {"x": x, **{f"{name}.v": np.array([1, -1], np.float32) for name in arrays}})
    np.testing.assert_array_equal(found["w.hvp"], [0, 0] if kind == "linear" else [7, -11])


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("per_example", [False, True])
def test_gates(make_model, run_model, rng, axis, per_example):
    """dL/dgate is the sum over positions of activation times gradient."""
    model = canonicalize(make_model(NET, net_weights(rng)))
    feeds = {"x": rng.standard_normal((3, 1, 6, 6)).astype(np.float32)}
    before = run_model(model, feeds)
    gate = insert_gate(model, "h", axis, per_example)
    np.testing.assert_allclose(run_model(model, feeds)["z"], before["z"], rtol=1e-6)
    append_loss(model, "sum_of_squares")
    Gradient("loss", [gate, "h"]).call(model)
    model.graph.outputs.append(next(y for node in model.graph for y in node.outputs if y.name == "h"))
    found = run_model(model, feeds)
    others = tuple(i for i in range(4) if i != axis % 4 and not (per_example and i == 0))
    np.testing.assert_allclose(
        found["h.gate.grad"], (found["h"] * found["h.grad"]).sum(others), rtol=1e-4, atol=1e-6
    )


def test_a_gate_on_an_output_keeps_its_name(make_model, run_model, rng):
    model = canonicalize(make_model(NET, net_weights(rng)))
    gate = insert_gate(model, "z")
    model.graph.initializers[gate].const_value = ir.tensor(np.zeros(3, np.float32))
    found = run_model(model, {"x": np.ones((1, 1, 6, 6), np.float32)})
    np.testing.assert_array_equal(found["z"], np.zeros((1, 3)))
