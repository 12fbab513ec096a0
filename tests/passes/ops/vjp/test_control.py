"""Derivatives through If, Loop and Scan against central differences, and the same graphs on onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from derivatives import check_model
from float64 import double, evaluator
from nets import build_model, run_proto

from obs_onnx.passes.autodiff.gradient import Gradient, HessianVectorProduct, weights
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import GradientError

BRANCHES = """g (double[3, 2] x, double[2, 4] w, double[4] b, bool c) => (double loss) {
    p = Tanh(x)
    y, n = If (c) <
        then_branch = one () => (double[3, 4] y1, double n1) {
            m1 = MatMul(p, w) y1 = Exp(m1) n1 = ReduceSum <keepdims = 0> (x)
        },
        else_branch = two () => (double[3, 4] y2, double n2) {
            q = MatMul(x, w) m2 = Mul(q, q) y2 = Add(m2, b) z = ReduceSum <keepdims = 0> (y2) n2 = Sin(z)
        }
    >
    s = Mul(y, y)  t = ReduceSum <keepdims = 0> (s)  u = Mul(n, t)  loss = Add(u, n)
}"""


TWO_STATES = """g (double[3] h, double[2, 5, 3] x, double[5, 2] z, double[3, 3] w) => (double loss) {
    [scan] a, i, y, s = Scan <
        num_scan_inputs = 2, scan_input_axes = [1, 0], scan_input_directions = [1, 0],
        scan_output_axes = [1, 0], scan_output_directions = [0, 1],
        body = step (double[3] h0, double[] i0, double[2, 3] x0, double[2] z0)
            => (double[3] h1, double[] i1, double[2, 3] y1, double[] s1) {
            r = MatMul(x0, w)  u = Mul(r, h0)  y1 = Tanh(u)
            d = MatMul(z0, y1)  i1 = Sin(i0)  e = Mul(d, i1)  h1 = Add(e, h0)
            s1 = ReduceSum <keepdims = 0> (h1)
        }
    > (h, k, x, z)
    b = Mul(a, a)  l1 = ReduceSum <keepdims = 0> (b)  t = Mul(y, y)  f = Mul(t, r0)
    l2 = ReduceSum <keepdims = 0> (f)  v = Mul(s, s)  q = Mul(v, r1)  l3 = ReduceSum <keepdims = 0> (q)
    loss = Sum(l1, l2, l3, i)
}"""


WHILE = """g (double[2] h, double[2, 2] w, double limit) => (double loss) {
    a, n, y = Loop <
        body = step (int64 t, bool go, double[2] h0, int64 n0)
            => (bool more, double[2] h1, int64 n1, double[2] y1) {
            m = MatMul(h0, w)  th = Tanh(m)  h1 = Add(th, h0)
            f = CastLike(t, h0)  c = CastLike(n0, h0)  e = Add(f, c)  y1 = Mul(h1, e)
            n1 = Add(n0, n_step)  size = ReduceMax <keepdims = 0> (h1)  more = Less(size, limit)
        }
    > (, yes, h, n_start)
    b = Mul(a, a)  l1 = ReduceSum <keepdims = 0> (b)  s = Mul(y, y)  l2 = ReduceSum <keepdims = 0> (s)
    loss = Add(l1, l2)
}"""


NESTED = """g (double[2] h, double[4, 3] x, double[2] w) => (double loss) {
    a = Scan <num_scan_inputs = 1, body = rows (double[2] h0, double[3] x0) => (double[2] h3) {
        p = Mul(h0, w)
        h2 = Scan <num_scan_inputs = 1, body = cells (double[2] h1, double x1) => (double[2] h1n) {
            q = Mul(p, x1)  r = Sin(q)  h1n = Add(h1, r)
        }> (h0, x0)
        total = ReduceSum <keepdims = 0> (x0)  up = Greater(total, zero)
        h3 = If (up) <
            then_branch = one () => (double[2] o1) { o1 = Mul(h2, p) },
            else_branch = two () => (double[2] o2) { o2 = Sub(h2, w) }
        >
    }> (h, x)
    b = Mul(a, a)  loss = ReduceSum <keepdims = 0> (b)
}"""


SWAPPED = """g (double[2] h, double[5, 2] x, double[2] w) => (double loss) {
    , c, y = Scan <num_scan_inputs = 1, body = step (double[2] h0, double[2] c0, double[2] x0)
        => (double[2] c0, double[2] c1, double[2] y1) {
        p = Mul(x0, h0)  c1 = Sin(p)  k = Shape(c0)  n = Concat <axis = 0> (k, one)
        r = Reshape(c1, n)  m = MatMul(column, r)  e = ReduceSum <keepdims = 0> (m)  y1 = Mul(e, c1)
    }> (h, w, x)
    s = Mul(c, c)  l1 = ReduceSum <keepdims = 0> (s)  l2 = ReduceSum <keepdims = 0> (y)  loss = Add(l1, l2)
}"""


PASSED_ON = """g (double[2] h, double[3, 2] x, double[2] w) => (double loss) {
    a, c = Scan <num_scan_inputs = 1, body = step (double[2] h0, double[2] c0, double[2] x0)
        => (double[2] h1, double[2] c1) {
        c1 = Identity(c0)  r = Round(h0)  p = Mul(x0, c1)  h1 = Add(p, r)
    }> (h, w, x)
    s = Mul(a, c)  b = Mul(s, s)  loss = ReduceSum <keepdims = 0> (b)
}"""


def case(name):
    rng = np.random.default_rng(1)
    normal = rng.standard_normal
    if name in ("then", "else"):
        feeds = {"x": normal((3, 2)), "w": normal((2, 4)), "b": normal(4), "c": np.array(name == "then")}
        return BRANCHES, feeds, ["x", "w", "b"] if name == "else" else ["x", "w"], {}
    if name == "scan":
        feeds = {"h": normal(3), "x": normal((2, 5, 3)), "z": normal((5, 2)), "w": normal((3, 3))}
        return TWO_STATES, feeds, list(feeds), {"k": np.array(0.7), "r0": normal((2, 5, 3)), "r1": normal(5)}
    if name == "while":
        feeds = {"h": np.array([0.1, 0.2]), "w": np.array([[0.9, 0.2], [0.3, 0.7]]), "limit": np.array(3.0)}
        held = {"yes": np.array(True), "n_start": np.array(2), "n_step": np.array(3)}
        return WHILE, feeds, ["h", "w"], held
    if name == "swapped":
        feeds = {"h": normal(2), "x": normal((5, 2)), "w": normal(2)}
        return SWAPPED, feeds, list(feeds), {"one": np.array([1]), "column": normal((1, 2))}
    feeds = {"h": normal(2), "x": normal((4, 3)), "w": normal(2)}
    return NESTED, feeds, ["h", "x", "w"], {"zero": np.array(0.0)}


@pytest.mark.parametrize("name", ["then", "else", "scan", "while", "nested", "swapped"])
def test_derivatives(name):
    text, feeds, wrt, held = case(name)
    check_model(build_model(text, held), feeds, wrt)


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("name", ["then", "else", "scan", "while", "nested", "swapped"])
def test_onnxruntime_gives_the_same(name, opset):
    text, feeds, wrt, held = case(name)
    if opset == 13:
        text = text.replace("CastLike(t, h0)", "Cast <to = 11> (t)").replace(
            "CastLike(n0, h0)", "Cast <to = 11> (n0)"
        )
    single = {k: a.astype(np.float32) if a.dtype == np.float64 else a for k, a in held.items()}
    text = text.replace("double", "float").replace("to = 11", "to = 1")
    text = text.replace(
        "(float[2] c0, float[2] c1, float[2] y1) {",
        "(float[2] h1, float[2] c1, float[2] y1) { h1 = Identity(c0)",
    )
    model = canonicalize(ir.from_proto(build_model(text, single, opset=opset)))
    HessianVectorProduct("loss", wrt).call(model)
    proto = ir.to_proto(model)
    rng = np.random.default_rng(2)
    feeds |= {f"{name}.v": rng.standard_normal(feeds[name].shape) for name in wrt}
    exact = evaluator(double(proto)).run(None, feeds)
    names = {info.name for info in proto.graph.input}
    found = run_proto(
        proto,
        {k: a.astype(np.float32) if a.dtype == np.float64 else a for k, a in feeds.items() if k in names},
    )
    for output, value in zip(proto.graph.output, exact, strict=True):
        np.testing.assert_allclose(found[output.name], value, rtol=2e-4, atol=2e-4)


def test_nothing_flows_through_what_rounds_or_into_the_other_branch():
    held = {"x": np.ones((3, 2)), "w": np.array([0.5, 0.25])}
    model = canonicalize(ir.from_proto(build_model(PASSED_ON, {})))
    Gradient("loss", ["h", "x", "w"], unconnected="zeros").call(model)
    found = dict(
        zip(
            [y.name for y in model.graph.outputs],
            evaluator(ir.to_proto(model)).run(None, {"h": np.array([3.2, -1.7]), **held}),
            strict=True,
        )
    )
    np.testing.assert_array_equal(found["h.grad"], 0)
    np.testing.assert_array_equal(found["x.grad"][:2], 0)
    assert np.abs(found["x.grad"][2]).min() > 0
    text, feeds, _, _ = case("then")
    model = canonicalize(ir.from_proto(build_model(text)))
    Gradient("loss", ["b"]).call(model)
    (_, grad) = evaluator(ir.to_proto(model)).run(None, feeds)
    np.testing.assert_array_equal(grad, np.zeros(4))


def test_weights_that_only_bodies_read_are_found():
    text = NESTED.replace(", double[2] w) => (", ") => (")
    model = canonicalize(ir.from_proto(build_model(text, {"zero": np.zeros(()), "w": np.ones(2)})))
    assert weights(model, "loss") == ["w"]


def test_only_what_the_way_back_reads_is_stored():
    """The sum of h_t = h_(t-1) + x_t w needs no h_t, and that of h_t = h_(t-1) * x_t w does, once."""
    for op_type, more in (("Add", 0), ("Mul", 1)):
        text = f"""g (double[2] h, double[3, 2] x, double[2] w) => (double loss) {{
            [scan] a, y = Scan <num_scan_inputs = 1,
                body = step (double[2] h0, double[2] x0) => (double[2] h1, double[2] y1) {{
                    p = Mul(x0, w)  h1 = {op_type}(h0, p)  y1 = Neg(h1)
                }}
            > (h, x)
            b = Mul(a, a)  loss = ReduceSum <keepdims = 0> (b)
        }}"""
        model = canonicalize(ir.from_proto(build_model(text)))
        HessianVectorProduct("loss", ["h", "x", "w"]).call(model)
        forward = next(node for node in model.graph if node.name == "scan")
        assert len(forward.outputs) == 2 + more


def test_no_steps_at_run_time_is_an_error_of_the_runtime():
    """Scan has no empty sequences on onnxruntime: an error, not a wrong gradient."""
    text = WHILE.replace("double", "float").replace("(, yes", "(none, yes")
    held = {"yes": np.array(True), "n_start": np.array(2), "n_step": np.array(3), "none": np.array(0)}
    model = canonicalize(ir.from_proto(build_model(text, held)))
    Gradient("loss", ["h"]).call(model)
    feeds = {"h": np.ones(2, np.float32), "w": np.ones((2, 2), np.float32), "limit": np.array(1, np.float32)}
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    with pytest.raises(Exception, match="Scan"):
        session.run(None, feeds)


def test_a_body_without_a_rule_names_the_inner_node():
    text = """g (double[2, 3, 3] x) => (double loss) {
        h = Scan <num_scan_inputs = 1, body = step (double h0, double[3, 3] x0) => (double h1) {
            [inner] d = Det(x0)  h1 = Add(h0, d)
        }> (zero, x)
        loss = Identity(h)
    }"""
    model = canonicalize(ir.from_proto(build_model(text, {"zero": np.array(0.0)})))
    with pytest.raises(GradientError, match=r"'inner.*Det"):
        Gradient("loss", ["x"]).call(model)
