"""Steps measured by what they do to a layer's outputs: moments, updates and descent against brute force."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from obs_onnx import finetune
from obs_onnx.data.open_source import open_source
from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.training import input_metrics as metrics
from obs_onnx.training.input_metrics import measure_metrics
from obs_onnx.training.schedule import Schedule

LINEAR = "g (float[N, 4] x) => (float[N, 3] z) { z = Gemm(x, w, b) }"
MIXED = """g (float[N, 4, 5, 5] x) => (float[N, 3] z) {
    a = Conv<pads = [1, 1, 1, 1]>(x, c, cb)  r = Relu(a)  d = Conv<group = 6>(r, dw)
    p = GlobalAveragePool(d)  f = Flatten(p)  s = Mul(f, k)  z = Gemm<alpha = 0.5, transB = 1>(s, w, b)
}"""
DAMPING = 1e-2


def tensors(rng, **shapes):
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def mixed(make_proto, rng):
    shapes = {"c": (6, 4, 3, 3), "cb": (6,), "dw": (6, 1, 2, 2), "k": (6,), "w": (3, 6), "b": (3,)}
    return make_proto(MIXED, tensors(rng, **shapes))


def values(model):
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    return {t.name: onnx.numpy_helper.to_array(t).astype(float) for t in proto.graph.initializer}


def measured(proto, data):
    model = canonicalize(ir.from_proto(proto))
    runtime = OrtRuntime()
    source = open_source(data, runtime.session(serialize(model)).inputs, batch_size=7)
    start = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    return measure_metrics(runtime, model, source, start), start


def dense_inverse(metric, shape):
    """H^-1 of a metric over all entries of a weight, found by what the layout does to their numbers."""
    places = metric.layout.to_matrix(np.arange(np.prod(shape)).reshape(shape)) / metric.layout.scale
    whole, first = np.zeros((np.prod(shape),) * 2), 0
    for inverse in metric.inverses:
        part = np.rint(places[:, :, first : first + inverse.shape[1]]).astype(int)
        first += inverse.shape[1]
        for g, rows in enumerate(part):
            for row in rows:
                whole[np.ix_(row, row)] = inverse[g]
    return whole


def damped(h):
    return h + DAMPING * np.trace(h) / len(h) * np.eye(len(h))


def patches(x, k, pad):
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    view = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))
    return view.transpose(0, 2, 3, 1, 4, 5)  # (N, H, W, C, k, k)


@pytest.mark.parametrize("most", [1024, 10])
def test_metrics_are_the_inverse_moments_of_what_each_output_reads(mixed, rng, monkeypatch, most):
    monkeypatch.setattr(metrics, "_COLUMNS", most)
    x = rng.standard_normal((20, 4, 5, 5)).astype(np.float32)
    found, start = measured(mixed, {"x": x})
    c = values(mixed)
    read = patches(x.astype(float), 3, 1).reshape(-1, 36)
    h = read.T @ read / len(read)
    order = np.arange(36).reshape(4, 9).T.ravel()  # offsets first, channels last
    runs = np.array_split(order, -(-36 // most))
    wanted = np.zeros((36, 36))
    square = 0.0
    rows = c["c"].reshape(6, 36)
    for run in runs:
        part = damped(h[np.ix_(run, run)])
        wanted[np.ix_(run, run)] = np.linalg.inv(part)
        square += np.trace(rows[:, run] @ part @ rows[:, run].T)
    whole = dense_inverse(found["c"], start["c"].shape)
    np.testing.assert_allclose(whole, np.kron(np.eye(6), wanted), rtol=1e-4, atol=1e-5)
    assert found["c"].norm == pytest.approx(square**0.5, rel=1e-4)
    assert found["cb"].norm == found["c"].norm
    assert not found["cb"].inverses

    a = np.maximum(
        np.einsum("nhwi,oi->nohw", patches(x, 3, 1).reshape(20, 5, 5, 36), rows) + c["cb"][:, None, None], 0
    )
    channel = patches(a, 2, 0)[:, :, :, 4].reshape(-1, 4)
    whole = dense_inverse(found["dw"], start["dw"].shape)
    np.testing.assert_allclose(
        whole[16:20, 16:20], np.linalg.inv(damped(channel.T @ channel / len(channel))), rtol=1e-3
    )
    assert np.all(whole[16:20, :16] == 0)
    assert found["k"].norm == pytest.approx(np.linalg.norm(c["k"]))
    assert not found["k"].inverses


def test_moments_too_large_for_memory_are_not_taken(mixed, rng, monkeypatch):
    monkeypatch.setattr(metrics, "_LARGEST", 8 * 36 * 36 - 1)
    found, start = measured(mixed, {"x": rng.standard_normal((9, 4, 5, 5)).astype(np.float32)})
    assert [name for name in start if found[name].inverses] == ["dw", "w"]
    for name in ("c", "cb"):
        assert found[name].norm == pytest.approx(np.linalg.norm(start[name]))


def reference(w, b, x, labels, rates, decay, momentum=0.9):
    """FOOF on a softmax regression, in float64."""
    h = damped(x.T @ x / len(x))
    norm = np.trace(w.T @ h @ w) ** 0.5
    params, inverses = [w.copy(), b.copy()], [np.linalg.inv(h), np.eye(1)]
    m = [np.zeros_like(p) for p in params]
    for rate in rates:
        z = x @ params[0] + params[1]
        p = np.exp(z - z.max(1, keepdims=True))
        off = (p / p.sum(1, keepdims=True) - np.eye(w.shape[1])[labels]) / len(x)
        for i, g in enumerate([x.T @ off, off.sum(0)]):
            m[i] = momentum * m[i] + g
            u = inverses[0] @ m[0] if i == 0 else m[1]
            keep = 1 - rate * decay if i == 0 else 1.0
            params[i] = keep * params[i] - rate * norm * u / np.sqrt((u * m[i]).sum())
    return params


def test_updates_are_those_of_the_formula(make_proto, rng):
    proto = make_proto(LINEAR, tensors(rng, w=(4, 3), b=(3,)))
    x = (rng.standard_normal((12, 4)) @ rng.standard_normal((4, 4))).astype(np.float32)
    labels = rng.integers(0, 3, 12)
    found = finetune(
        proto,
        {"x": x, "labels": labels},
        steps=4,
        batch=12,
        optimizer="foof",
        lr=0.05,
        weight_decay=0.1,
        warmup=2,
    )
    start, end = values(proto), values(found.model)
    rates = [Schedule(0.05, 4, 2)(k) for k in range(4)]
    w, b = reference(start["w"], start["b"], x.astype(float), labels, rates, 0.1)
    np.testing.assert_allclose(end["w"], w, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(end["b"], b, rtol=1e-4, atol=1e-5)
    assert np.abs(w - start["w"]).max() > 1e-2


def test_a_step_does_not_depend_on_the_scale_of_the_inputs(make_proto, rng):
    """Another basis of the inputs gives the same outputs after training: what Adam and SGD do not have."""
    held, x = tensors(rng, w=(4, 3), b=(3,)), rng.standard_normal((40, 4)).astype(np.float32)
    target = (x @ rng.standard_normal((4, 3))).argmax(1)
    basis = np.diag([30.0, 1.0, 1.0, 0.1]).astype(np.float32)
    twin = {**held, "w": np.linalg.inv(basis) @ held["w"]}
    ends = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_DAMPING", 1e-9)
        for proto, seen in ((make_proto(LINEAR, held), x), (make_proto(LINEAR, twin), x @ basis)):
            end = values(
                finetune(proto, {"x": seen, "labels": target}, steps=5, optimizer="foof", lr=0.1).model
            )
            ends.append(seen @ end["w"] + end["b"])
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-3)


@pytest.mark.parametrize("most", [1024, 3])
def test_zeros_stay_zeros_and_the_loss_falls(mixed, rng, monkeypatch, most):
    monkeypatch.setattr(metrics, "_COLUMNS", most)
    for tensor in mixed.graph.initializer:
        if tensor.name in ("c", "dw", "w"):
            array = onnx.numpy_helper.to_array(tensor) * (rng.random(tensor.dims) < 0.4)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), tensor.name))
    x = rng.standard_normal((256, 4, 5, 5)).astype(np.float32)
    labels = (np.abs(x[:, 0]).mean((1, 2)) > 0.8).astype(int)
    found = finetune(mixed, {"x": x, "labels": labels}, steps=80, batch=32, optimizer="foof", lr=0.02)
    before, after = values(mixed), values(found.model)
    for name in ("c", "dw", "w"):
        assert np.array_equal(after[name] == 0, before[name] == 0)
        assert np.mean((after[name] != before[name])[before[name] != 0]) > 0.5
    assert found.report.after.loss < 0.7 * found.report.before.loss


def test_weights_that_are_zero_and_inputs_that_never_come_still_train(make_proto, rng):
    proto = make_proto(LINEAR, {"w": np.zeros((4, 3), np.float32), "b": np.zeros(3, np.float32)})
    x = rng.standard_normal((64, 4)).astype(np.float32)
    x[:, 3] = 0
    labels = x[:, :3].argmax(1)
    found = finetune(proto, {"x": x, "labels": labels}, steps=60, optimizer="foof", lr=0.05, keep_zeros=False)
    assert found.report.after.accuracy > 0.85
    assert np.isfinite(values(found.model)["w"]).all()


def test_a_model_without_layers_trains(make_proto, rng):
    text = "g (float[N, 4] x) => (float[N, 4] z) { z = LayerNormalization(x, k, s) }"
    proto = make_proto(text, tensors(rng, k=(4,), s=(4,)))
    x = rng.standard_normal((64, 4)).astype(np.float32)
    found = finetune(proto, {"x": x, "labels": x.argmax(1)}, steps=80, optimizer="foof", lr=0.05)
    assert found.report.after.loss < 0.5 * found.report.before.loss
