"""The command and function ``gradient``: names, numbers, and what is refused."""

from __future__ import annotations

import nets
import numpy as np
import onnx
import onnxruntime as ort
import pytest

from obs_onnx import gradient
from obs_onnx.passes.errors import GradientError, OptionError


def run(path, feed):
    onnx.checker.check_model(str(path), full_check=True)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def test_cross_entropy_of_a_linear_model(linear, tmp_path, rng):
    proto, w, b = linear
    x, labels = rng.standard_normal((5, 4)), np.array([0, 2, 1, 1, 0])
    gradient(proto, tmp_path / "g.onnx")
    found = run(tmp_path / "g.onnx", {"x": x.astype(np.float32), "labels": labels})
    z = x @ w + b
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    off = (p - np.eye(3)[labels]) / 5
    assert list(found) == ["z", "total", "loss", "w.grad", "b.grad"]
    np.testing.assert_allclose(found["loss"], -np.log(p[range(5), labels]).mean(), rtol=1e-5)
    np.testing.assert_allclose(found["w.grad"], x.T @ off, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["b.grad"], off.sum(0), rtol=1e-4, atol=1e-6)


def test_sum_of_squares_and_its_hessian(linear, tmp_path, rng):
    proto, w, b = linear
    x, v, u = rng.standard_normal((5, 4)), rng.standard_normal((4, 3)), rng.standard_normal(3)
    gradient(proto, tmp_path / "g.onnx", loss="sum_of_squares", hvp=True)
    feed = {"x": x, "w.v": v, "b.v": u}
    found = run(tmp_path / "g.onnx", {name: array.astype(np.float32) for name, array in feed.items()})
    z = x @ w + b
    np.testing.assert_allclose(found["loss"], 0.5 * (z**2).sum(), rtol=1e-5)
    np.testing.assert_allclose(found["w.hvp"], x.T @ (x @ v + u), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["b.hvp"], (x @ v + u).sum(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["b.grad"], z.sum(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("loss", "target"), [("mse", "labels"), ("kl", "teacher")])
def test_losses_against_targets(linear, tmp_path, rng, loss, target):
    proto, w, b = linear
    x, t = rng.standard_normal((2, 5, 4))[0], rng.standard_normal((5, 3))
    gradient(proto, tmp_path / "g.onnx", loss=loss)
    found = run(tmp_path / "g.onnx", {"x": x.astype(np.float32), target: t.astype(np.float32)})
    z = x @ w + b
    p, q = (np.exp(y) / np.exp(y).sum(1, keepdims=True) for y in (t, z))
    expected, off = (
        (((z - t) ** 2).mean(), 2 * (z - t) / z.size)
        if loss == "mse"
        else ((p * np.log(p / q)).sum(1).mean(), (q - p) / 5)
    )
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-4)
    np.testing.assert_allclose(found["w.grad"], x.T @ off, rtol=1e-4, atol=1e-6)


def test_a_scalar_output_is_a_loss(linear, tmp_path, rng):
    proto, _, _ = linear
    x = rng.standard_normal((5, 4)).astype(np.float32)
    gradient(proto, tmp_path / "g.onnx", loss="total")
    found = run(tmp_path / "g.onnx", {"x": x})
    assert found["loss"] == found["total"]
    np.testing.assert_allclose(found["w.grad"], np.repeat(x.sum(0)[:, None], 3, 1), rtol=1e-5)


@pytest.mark.parametrize("opset", [9, 18])
def test_initializers_keep_their_names(make_proto, rng, tmp_path, opset):
    net = nets.Net()
    net.batch_norm(net.conv("x", "c1", 4, 3), "bn", 4)
    text = """g (float[N, 3, 6, 6] x) => (float[N, 4, 6, 6] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, c1.weight, c1.bias)
        y = BatchNormalization (c, bn.scale, bn.shift, bn.mean, bn.var)
    }"""
    text = text.replace("c1.", "c1_").replace("bn.", "bn_")
    tensors = {name.replace(".", "_"): array for name, array in net.tensors.items()}
    gradient(make_proto(text, tensors, opset=opset), tmp_path / "g.onnx", loss="sum_of_squares")
    found = run(tmp_path / "g.onnx", {"x": rng.standard_normal((2, 3, 6, 6)).astype(np.float32)})
    for name, array in tensors.items():
        assert found[f"{name}.grad"].shape == array.shape


def test_only_what_is_asked_for(linear):
    proto, _, _ = linear
    model = gradient(proto, wrt=["b"])
    assert [y.name for y in model.graph.outputs] == ["z", "total", "loss", "b.grad"]
    with pytest.raises(GradientError, match="'q'"):
        gradient(proto, wrt=["q"])


def test_names_that_are_taken(make_proto):
    text = """g (float[2] x) => (float[2] y, float q) {
        y = Mul(x, w)  loss = Abs(y)  q = ReduceSum <keepdims = 0> (loss)
    }"""
    for loss in ("sum_of_squares", "q"):
        with pytest.raises(GradientError, match="'loss' is taken"):
            gradient(make_proto(text, {"w": np.ones(2, np.float32)}), loss=loss)


def test_the_model_is_not_overwritten(linear, tmp_path):
    proto, _, _ = linear
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(OptionError, match="the model itself"):
        gradient(tmp_path / "m.onnx", tmp_path / "m.onnx")


@pytest.mark.parametrize("end", ["y = ArgMax <axis = 1> (z)", "v, y = TopK <axis = 1> (z, k)"])
def test_the_loss_is_of_what_a_decision_is_taken_on(make_proto, tmp_path, rng, end):
    w = rng.standard_normal((4, 3)).astype(np.float32)
    outputs = ("float[N,1] v, " if "TopK" in end else "") + "int64[N,1] y"
    held = {"k": np.array([1])} if "TopK" in end else {}
    decided = make_proto(f"g (float[N,4] x) => ({outputs}) {{ z = MatMul(x, w) {end} }}", {"w": w, **held})
    plain = make_proto("g (float[N,4] x) => (float[N,3] z) { z = MatMul(x, w) }", {"w": w})
    feed = {"x": rng.standard_normal((5, 4)).astype(np.float32), "labels": np.array([0, 2, 1, 1, 0])}
    for name, proto in (("a", decided), ("b", plain)):
        gradient(proto, tmp_path / f"{name}.onnx")
    found, expected = (run(tmp_path / f"{name}.onnx", feed) for name in "ab")
    assert list(found) == list(expected) == ["z", "loss", "w.grad"]
    np.testing.assert_array_equal(found["w.grad"], expected["w.grad"])
