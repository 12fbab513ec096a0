"""Training: updates against float64 references, zeros, schedules, checkpoints, early stops, the command."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from easy_training import tensors, values

from obs_onnx import finetune
from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.open_source import open_source
from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import OptionError
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.training.loop import Course, Settings, train
from obs_onnx.training.objective import choose_objective
from obs_onnx.training.schedule import Schedule

LINEAR = "g (float[N, 4] x) => (float[N, 3] z) { z = Gemm(x, w, b) }"


@pytest.fixture
def linear(make_proto, rng):
    return make_proto(LINEAR, tensors(rng, w=(4, 3), b=(3,)))


def gradients(w, b, x, labels):
    z = x @ w + b
    p = np.exp(z - z.max(1, keepdims=True))
    off = (p / p.sum(1, keepdims=True) - np.eye(w.shape[1])[labels]) / len(x)
    return x.T @ off, off.sum(0)


def reference(name, w, b, x, labels, rates, decay, momentum=0.9, b1=0.9, b2=0.999, eps=1e-8):
    """Weights after steps at ``rates`` on the whole data, in float64, from the published formulas."""
    params = [w.astype(float), b.astype(float)]
    m, v = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]
    for t, rate in enumerate(rates, start=1):
        grads = gradients(*params, x, labels)
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            shrink = decay if p.ndim > 1 else 0.0
            if name == "sgd":
                m[i] = momentum * m[i] + g + shrink * p
                params[i] = p - rate * m[i]
                continue
            g = g + shrink * p * (name == "adam")
            m[i], v[i] = b1 * m[i] + (1 - b1) * g, b2 * v[i] + (1 - b2) * g * g
            p = p * (1 - rate * shrink) if name == "adamw" else p
            step = m[i] / (1 - b1**t) / (np.sqrt(v[i] / (1 - b2**t)) + eps)
            params[i] = p - rate * step
    return params


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("steps", [1, 4])
def test_updates_are_those_of_the_papers(linear, rng, name, steps):
    x, labels = rng.standard_normal((12, 4)).astype(np.float32), rng.integers(0, 3, 12)
    data = {"x": x, "labels": labels}
    rate, decay = 0.05, 0.1
    found = finetune(
        linear, data, steps=steps, batch=12, optimizer=name, lr=rate, weight_decay=decay, warmup=2
    )
    start, end = values(linear), values(found.model)
    rates = [Schedule(rate, steps, min(2, steps))(k) for k in range(steps)]
    w, b = reference(name, start["w"], start["b"], x.astype(float), labels, rates, decay)
    np.testing.assert_allclose(end["w"], w, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(end["b"], b, rtol=2e-5, atol=2e-6)
    assert np.abs(w - start["w"]).max() > 1e-3


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "foof"])
def test_the_loss_falls_on_labels(deep, easy, optimizer):
    found = finetune(deep, easy, steps=120, batch=32, optimizer=optimizer, lr=0.02)
    report = found.report
    assert report.after.loss < 0.2 * report.before.loss
    assert report.after.accuracy > 0.95
    assert report.history[0] == report.before
    assert report.after in report.history


def test_a_student_follows_its_teacher(deep, easy, rng):
    student = onnx.ModelProto()
    student.CopyFrom(deep)
    for tensor in student.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        noisy = array + 0.3 * rng.standard_normal(array.shape).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(noisy, tensor.name))
    found = finetune(student, {"x": easy["x"]}, steps=150, batch=32, teacher=deep, lr=0.01)
    assert found.report.after.loss < 0.1 * found.report.before.loss
    assert not found.report.labels


def test_outputs_that_are_no_classes_are_matched_by_scale(make_proto, easy, rng):
    text = """g (float[N, 6] x) => (float[N, 3, 2] y, float[N, 2] z) {
        a = Gemm(x, w1)  y = Reshape(a, shape)  c = Gemm(x, w2)  z = Mul(c, k)
    }"""
    fixed = {"shape": np.array([-1, 3, 2]), "k": np.float32(1000)}
    weights = tensors(rng, w1=(6, 6), w2=(6, 2))
    teacher = make_proto(text, {**weights, **fixed})
    off = {name: array * (1 + 0.3 * rng.standard_normal(array.shape)) for name, array in weights.items()}
    student = make_proto(text, {**{k: v.astype(np.float32) for k, v in off.items()}, **fixed})
    found = finetune(student, {"x": easy["x"]}, steps=200, teacher=teacher, optimizer="sgd", lr=0.02)
    assert found.report.after.loss < 0.1 * found.report.before.loss
    assert found.report.after.accuracy is None
    end = values(found.model)
    for name in ("w1", "w2"):
        error, error_before = (np.abs(easy["x"] @ (w[name] - weights[name])).mean() for w in (end, off))
        assert error < 0.3 * error_before
    assert end["k"] == 1000


def test_zeros_stay_zeros_and_the_rest_moves(deep, easy, tmp_path, rng):
    for tensor in deep.graph.initializer:
        if tensor.name.startswith("w"):
            array = onnx.numpy_helper.to_array(tensor) * (rng.random(tensor.dims) < 0.3)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), tensor.name))
    before = values(deep)
    finetune(deep, easy, tmp_path / "out.onnx", steps=60, lr=0.05, weight_decay=0.1)
    after = values(onnx.load(tmp_path / "out.onnx"))
    for name in ("w1", "w2"):
        assert np.array_equal(after[name] == 0, before[name] == 0)
        assert np.all(after[name][before[name] != 0] != before[name][before[name] != 0])
    free = values(finetune(deep, easy, steps=60, lr=0.05, keep_zeros=False).model)
    assert np.count_nonzero(free["w1"]) > np.count_nonzero(before["w1"])


class InterruptError(Exception):
    pass


class Stops:
    """Progress that raises after so many steps."""

    def __init__(self, after):
        self.left = after

    @contextmanager
    def stage(self, name, total=None):
        def advance(units):
            self.left -= units
            if self.left < 0:
                raise InterruptError

        yield advance

    def say(self, message):
        pass


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "foof"])
def test_a_resumed_run_equals_an_uninterrupted_one(deep, easy, tmp_path, optimizer):
    options = {"steps": 40, "batch": 24, "optimizer": optimizer, "lr": 0.01, "evaluations": 8, "seed": 3}
    whole = finetune(deep, easy, **options)
    path = tmp_path / "run.npz"
    with pytest.raises(InterruptError):
        finetune(deep, easy, checkpoint=path, progress=Stops(23), **options)
    assert path.exists()
    resumed = finetune(deep, easy, checkpoint=path, resume=True, **options)
    for name, array in values(whole.model).items():
        assert np.array_equal(array, values(resumed.model)[name])
    assert resumed.report.history == whole.report.history
    with pytest.raises(OptionError, match="other seed"):
        finetune(deep, easy, checkpoint=path, resume=True, **{**options, "seed": 4})
    path.write_bytes(b"nonsense")
    with pytest.raises(OptionError, match="no checkpoint"):
        finetune(deep, easy, checkpoint=path, resume=True, **options)


def part(model, data, steps, **options):
    """A run of :func:`train` on labels; the model is not changed."""
    model, runtime = canonicalize(ir.from_proto(model)), OrtRuntime()
    objective = choose_objective(model, {"z": np.zeros((1, 4), np.float32)}, labels=True, teacher=False)
    source = open_source(data, runtime.session(serialize(model)).inputs, batch_size=24)
    settings = Settings(steps, 24, "adam", 0.01, evaluations=2)
    return train(runtime, model, objective, source, settings, **options)


def changed(model, weights):
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in copy.graph.initializer:
        array = weights[tensor.name].astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return copy


def test_the_parts_of_a_course_make_one_run(deep, easy):
    whole = part(deep, easy, 30)
    first = part(deep, easy, 12, course=Course(0, 30))
    second = part(changed(deep, first.weights), easy, 18, course=Course(12, 30, first.state))
    for name, array in whole.weights.items():
        assert np.array_equal(array, second.weights[name])


def test_a_course_goes_on_from_the_last_weights(deep, easy):
    noise = {**easy, "labels": np.random.default_rng(5).permutation(easy["labels"])}
    held_out = open_source(easy, [TensorSpec("x", (None, 6), np.dtype(np.float32))])
    good = changed(deep, part(deep, easy, 100).weights)
    worse = part(good, noise, 40, held_out=held_out, course=Course(0, 80))
    assert worse.after.loss > worse.before.loss
    last = part(good, noise, 40, held_out=held_out, course=Course(40, 80))
    assert last.after.loss <= last.before.loss


def test_what_is_pruned_between_two_parts_stays_zero(deep, easy):
    first = part(deep, easy, 12, course=Course(0, 30))
    weights = dict(first.weights)
    weights["w1"] = weights["w1"] * (np.arange(weights["w1"].size).reshape(weights["w1"].shape) % 2)
    second = part(changed(deep, weights), easy, 18, course=Course(12, 30, first.state))
    assert np.array_equal(second.weights["w1"] == 0, weights["w1"] == 0)
    assert not np.array_equal(second.weights["w1"], weights["w1"])


def test_an_early_stop_keeps_the_best(deep, easy):
    good = finetune(deep, easy, steps=100, lr=0.02).model
    noise = {**easy, "labels": np.random.default_rng(5).permutation(easy["labels"])}
    found = finetune(good, noise, steps=200, lr=0.05, eval=easy, evaluations=40, patience=3)
    assert found.report.after.step == 0
    assert found.report.steps < 200
    whole = finetune(good, noise, steps=60, lr=0.05, eval=easy, evaluations=40).report
    assert (whole.steps, whole.after.step) == (60, 0)
    for name, array in values(good).items():
        assert np.array_equal(array, values(found.model)[name])


def test_probabilities_are_taught_before_their_softmax(make_proto, easy, rng):
    weights = tensors(rng, w=(6, 4), b=(4,))
    text = "g (float[N, 6] x) => (float[N, 4] p) { z = Gemm(x, w, b)  p = Softmax <axis = -1> (z) }"
    teacher = make_proto(text, weights)
    student = make_proto(text, {"w": np.zeros((6, 4), np.float32), "b": weights["b"]})
    found = finetune(student, {"x": easy["x"]}, steps=200, lr=0.05, teacher=teacher, keep_zeros=False)
    assert found.report.after.loss < 0.02 * found.report.before.loss


def test_scores_may_differ_by_a_constant(make_proto, easy, rng):
    weights = tensors(rng, w=(6, 4), b=(4,))
    text = "g (float[N, 6] x) => (float[N, 4] z) { z = Gemm(x, w, b) }"
    shifted = {"w": weights["w"] + rng.standard_normal((6, 1)).astype(np.float32), "b": weights["b"] + 3}
    options = {"steps": 5, "teacher": make_proto(text, weights), "task": "classification"}
    assert finetune(make_proto(text, shifted), {"x": easy["x"]}, **options).report.before.loss < 1e-10
    shifted["b"] = weights["b"] + np.array([0, 0, 0, 0.1], np.float32)
    found = finetune(make_proto(text, {**weights, "b": shifted["b"]}), {"x": easy["x"]}, **options)
    assert found.report.before.loss == pytest.approx((0.075**2 + 3 * 0.025**2) / 8, rel=1e-3)


def test_probabilities_without_a_softmax_are_matched_as_they_are(make_proto, easy, rng):
    text = """g (float[N, 6] x) => (float[N, 4] p) {
        a = MatMul(x, w)  e = Exp(a)  s = ReduceSum(e, axes)  p = Div(e, s)
    }"""
    weights, axes = tensors(rng, w=(6, 4)), {"axes": np.array([1])}
    teacher = make_proto(text, {**weights, **axes})
    student = make_proto(text, {"w": 0.5 * weights["w"], **axes})
    found = finetune(student, {"x": easy["x"]}, steps=300, lr=0.05, teacher=teacher, weight_decay=0.0)
    assert found.report.after.loss < 1e-3 * found.report.before.loss
