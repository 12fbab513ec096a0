"""onnxruntime-training against the graph engine: gradients, steps, zeros, losses, resumed runs."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager

import nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner

from obs_onnx import finetune, prune
from obs_onnx.cli import main
from obs_onnx.passes.autodiff.gradient import Gradient
from obs_onnx.passes.autodiff.optimizers import SGD
from obs_onnx.passes.autodiff.training_step import Term, loss_graph
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import GradientError, MissingRuntimeError, OptionError
from obs_onnx.runtimes.onnxruntime import OrtRuntime

NETS = ["mlp", "conv", "residual", "normalized", "attention"]


def values(model):
    model = ir.to_proto(model) if isinstance(model, ir.Model) else model
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def thinned(model, rng, share=0.6):
    """The model with this share of its weights zero."""
    for tensor in model.graph.initializer:
        if tensor.name.startswith("w"):
            array = onnx.numpy_helper.to_array(tensor) * (rng.random(tensor.dims) > share)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), tensor.name))
    return model


def both(model, data, **options):
    """Weights trained by either engine (so few samples that none is held out: the last weights count)."""
    engines = ("graph", "ort-training")
    return [values(finetune(model, data, trainer=trainer, **options).model) for trainer in engines]


def assert_same(found, wanted, start, rtol=1e-4):
    """Equal up to ``rtol`` of the largest movement of each weight."""
    for name, array in wanted.items():
        moved = np.abs(array - start[name]).max()
        np.testing.assert_allclose(found[name], array, rtol=2e-7, atol=rtol * moved, err_msg=name)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("kind", ["cross_entropy", "kl", "mse"])
@pytest.mark.parametrize("name", NETS)
def test_gradients(net, data, rng, tmp_path, name, kind, run_model):
    from obs_onnx.training.engines.ort_artifacts import Training, fitted, write_artifacts

    model = canonicalize(ir.from_proto(net(name)))
    terms = [Term(kind, "z", "target")]
    graph, loss = loss_graph(model, terms)
    weights = [k for k in values(model) if k[0] in "wbs"]
    write_artifacts(tmp_path, fitted(graph), loss, weights, SGD(momentum=0))
    training = Training(OrtRuntime(None, 1), tmp_path, evaluated=False)
    target = data(name, 6)["labels"] if kind == "cross_entropy" else rng.standard_normal((6, 4))
    feed = {"x": data(name, 6)["x"], "target": target.astype(np.int64 if target.ndim == 1 else np.float32)}
    outputs = training.gradients(feed)
    Gradient(loss, weights).call(graph)
    wanted = run_model(graph, feed)
    np.testing.assert_allclose(outputs[loss], wanted[loss], rtol=1e-5)
    for weight in weights:
        own, theirs = wanted[f"{weight}.grad"], training.gradient(weight)
        assert np.abs(own).max() > 1e-4
        np.testing.assert_allclose(theirs, own, rtol=1e-4, atol=2e-5 * np.abs(own).max(), err_msg=weight)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(
    ("optimizer", "steps", "options"),
    [
        ("sgd", 1, {"momentum": 0.0}),
        ("sgd", 5, {"momentum": 0.0}),
        ("adam", 5, {}),
        ("adamw", 1, {"weight_decay": 0.5}),
        ("adamw", 8, {"weight_decay": 0.5}),
    ],
)
def test_steps_equal_those_of_the_graph_engine(net, data, name, optimizer, steps, options):
    model = net(name)
    graph, other = both(
        model, data(name, 14), steps=steps, batch=6, optimizer=optimizer, lr=0.05, warmup=2, **options
    )
    start = values(model)
    assert np.abs(graph["w1"] - start["w1"]).max() > 1e-3
    assert_same(other, graph, start, rtol=1e-3)


WRONG_OR_FATAL = {
    "same padding": 'a = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (c, v)',
    "lower padding": 'a = Conv <auto_pad = "SAME_LOWER", strides = [3, 2]> (c, v)',
    "max pool": 'a = MaxPool <auto_pad = "SAME_UPPER", kernel_shape = [3, 2], strides = [2, 2]> (c)',
    "average pool": "a = AveragePool <kernel_shape = [2, 3], strides = [2, 1]> (c)",
    "padded": "a = AveragePool <kernel_shape = [3, 3], pads = [1, 0, 1, 2], strides = [1, 2]> (c)",
    "counted": "a = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (c)",
    "same pool": 'a = AveragePool <kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER"> (c)',
    "batch norm": "n = Mul (c, k) a = BatchNormalization <epsilon = 0.1> (n, s, b, mean, var)",
}


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("body", WRONG_OR_FATAL.values(), ids=WRONG_OR_FATAL)
def test_operators_that_the_package_gets_wrong(make_proto, rng, body):
    text = f"""g (float[N, 2, 9, 8] x) => (float[N, 4] z) {{
        c = Conv(x, w1)  {body}  t = Tanh(a)  p = GlobalAveragePool(t)  f = Flatten(p)  z = Gemm(f, w2)
    }}"""
    shapes = {"w1": (6, 2, 3, 3), "v": (6, 6, 3, 2), "w2": (6, 4), "s": (6,), "b": (6,), "mean": (6,)}
    weights = {k: rng.standard_normal(shape).astype(np.float32) for k, shape in shapes.items()}
    weights |= {"var": rng.uniform(0.5, 2, 6).astype(np.float32), "k": np.float32(0.5)}
    used = {k: v for k, v in weights.items() if f"{k}," in text or f"{k})" in text}
    model = make_proto(text, used)
    x = rng.standard_normal((14, 2, 9, 8)).astype(np.float32)
    data = {"x": x, "labels": rng.integers(0, 4, 14)}
    options = {"optimizer": "sgd", "momentum": 0.0, "lr": 0.05, "batch": 6, "fold": False}
    graph, other = both(model, data, steps=3, **options)
    trained = {k for k in ("w1", "v", "w2", "s", "b") if k in used}
    assert all(np.abs(graph[k] - used[k]).max() > 1e-5 for k in trained)
    assert_same(other, graph, values(model), rtol=1e-3)
    assert set(other) == set(values(model))


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_zeros_stay_zeros(net, data, rng, tmp_path, optimizer):
    model = thinned(net("conv"), rng)
    before = values(model)
    options = {"steps": 30, "lr": 0.02, "optimizer": optimizer, "momentum": 0.0, "batch": 6}
    few = data("conv", 14)
    report = finetune(model, few, tmp_path / "out.onnx", trainer="ort-training", **options).report
    after = values(onnx.load(tmp_path / "out.onnx"))
    zeros = 0
    for name in ("w1", "w2", "w3"):
        assert np.array_equal(after[name] == 0, before[name] == 0)
        assert np.all(after[name][before[name] != 0] != before[name][before[name] != 0])
        zeros += int((after[name] == 0).sum())
    assert report.masked == zeros > 0
    assert set(after) == set(before)
    free = values(finetune(model, few, trainer="ort-training", keep_zeros=False, **options).model)
    assert np.count_nonzero(free["w2"]) > np.count_nonzero(before["w2"])
    graph, other = both(model, few, **{**options, "steps": 6})
    assert_same(other, graph, before, rtol=2e-3)


@pytest.mark.usefixtures("package")
def test_a_teacher_and_labels(net, data, rng):
    teacher, x = net("mlp"), data("mlp", 14)
    student = onnx.ModelProto()
    student.CopyFrom(teacher)
    thinned(student, rng, 0.3)
    for options in ({"teacher": teacher}, {"teacher": teacher, "labels": "labels", "mix": 0.3}):
        graph, other = both(student, x, steps=6, batch=6, optimizer="adamw", lr=0.01, **options)
        assert_same(other, graph, values(student), rtol=1e-3)


@pytest.mark.usefixtures("package")
def test_outputs_that_are_no_classes(make_proto, rng):
    text = """g (float[N, 6] x) => (float[N, 3, 2] y, float[N, 2] z) {
        a = Gemm(x, w1)  y = Reshape(a, shape)  c = Gemm(x, w2)  z = Mul(c, k)
    }"""
    fixed = {"shape": np.array([-1, 3, 2]), "k": np.float32(1000)}
    weights = {k: rng.standard_normal((6, n)).astype(np.float32) for k, n in (("w1", 6), ("w2", 2))}
    off = {k: (w * (1 + 0.3 * rng.standard_normal(w.shape))).astype(np.float32) for k, w in weights.items()}
    teacher, student = make_proto(text, {**weights, **fixed}), make_proto(text, {**off, **fixed})
    x = rng.standard_normal((14, 6)).astype(np.float32)
    options = {"optimizer": "sgd", "momentum": 0.0, "lr": 0.02, "batch": 6}
    graph, other = both(student, {"x": x}, steps=6, teacher=teacher, **options)
    assert_same(other, graph, values(student), rtol=1e-3)


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


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_resumed_run_equals_an_uninterrupted_one(net, data, tmp_path, optimizer):
    options = {"steps": 30, "batch": 16, "optimizer": optimizer, "momentum": 0.0, "evaluations": 6}
    model, samples, path = net("mlp"), data("mlp", 90), tmp_path / "run.npz"
    options |= {"lr": 0.02, "trainer": "ort-training"}
    whole = finetune(model, samples, **options)
    with pytest.raises(InterruptError):
        finetune(model, samples, checkpoint=path, progress=Stops(17), **options)
    resumed = finetune(model, samples, checkpoint=path, resume=True, **options)
    for name, array in values(whole.model).items():
        assert np.array_equal(array, values(resumed.model)[name])
    assert resumed.report.history == whole.report.history
    with pytest.raises(OptionError, match="other trainer"):
        finetune(model, samples, checkpoint=path, resume=True, **{**options, "trainer": "graph"})


@pytest.mark.usefixtures("package")
def test_the_command_learns_and_leaves_other_files_alone(net, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "temp.onnx").write_bytes(b"mine")
    onnx.save(net("mlp"), "m.onnx")
    centres, labels = np.random.default_rng(3).standard_normal((4, 6)) * 2, np.arange(200) % 4
    x = centres[labels] + 0.3 * np.random.default_rng(4).standard_normal((200, 6))
    np.savez("d.npz", x=x.astype(np.float32), labels=labels)
    arguments = ["finetune", "m.onnx", "--data", "d.npz", "--steps", "80", "--lr", "0.02", "--json", "r.json"]
    result = CliRunner().invoke(main, [*arguments, "--trainer", "ort-training", "-q"])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["settings"]["trainer"] == "ort-training"
    assert report["after"]["loss"] < 0.2 * report["before"]["loss"]
    assert (tmp_path / "temp.onnx").read_bytes() == b"mine"
    assert set(os.listdir()) == {"temp.onnx", "m.onnx", "d.npz", "r.json", "m.finetuned.onnx"}


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "sgd"}, "momentum 0"),
        ({"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.1}, "momentum 0"),
        ({"optimizer": "adam", "weight_decay": 0.1}, "adamw"),
        ({"weight_decay": 20.0, "lr": 0.1}, "smaller"),
        ({"optimizer": "foof"}, "no FOOF"),
    ],
)
def test_what_the_package_lacks_is_refused(net, data, options, message):
    with pytest.raises(OptionError, match=message):
        finetune(net("mlp"), data("mlp", 30), steps=2, trainer="ort-training", **options)


@pytest.mark.usefixtures("package")
def test_operators_without_gradient_are_named(make_proto, rng):
    text = "g (float[N, 6] x) => (float[N, 4] z) { a = MatMul(x, w)  h = Elu(a)  z = MatMul(h, v) }"
    weights = {"w": rng.standard_normal((6, 5)), "v": rng.standard_normal((5, 4))}
    model = make_proto(text, {k: w.astype(np.float32) for k, w in weights.items()})
    data = {"x": rng.standard_normal((30, 6)).astype(np.float32), "labels": rng.integers(0, 4, 30)}
    with pytest.raises(GradientError, match="Elu") as error:
        finetune(model, data, steps=2, trainer="ort-training")
    assert "onnxruntime_src" not in str(error.value)


@pytest.mark.usefixtures("package")
def test_double_precision_is_refused(make_proto, rng):
    model = make_proto("g (double[N, 6] x) => (double[N, 4] z) { z = MatMul(x, w) }", {"w": np.ones((6, 4))})
    data = {"x": rng.standard_normal((30, 6)), "labels": rng.integers(0, 4, 30)}
    with pytest.raises(OptionError, match="float32 only"):
        finetune(model, data, steps=2, trainer="ort-training")


def test_an_unknown_trainer(net, data):
    with pytest.raises(OptionError, match="graph or ort-training"):
        finetune(net("mlp"), data("mlp", 30), steps=2, trainer="torch")


def test_without_the_package(net, data, monkeypatch):
    from obs_onnx.training.engines import ort_artifacts as ort_training

    ort_training._package.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime.training.api", None)
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime.training", None)
    with pytest.raises(MissingRuntimeError, match="environment of its own"):
        finetune(net("mlp"), data("mlp", 30), steps=2, trainer="ort-training")
    ort_training._package.cache_clear()


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(("mode", "targets"), [("weights", {"sparsity": 0.8}), ("channels", {"macs": 0.5})])
def test_pruning_with_retraining(tmp_path, mode, targets):
    model = nets.mlp()
    calib = {model.graph.input[0].name: nets.data(1, 256, 12, factors=12)}
    options = {"calib": calib, "mode": mode, "targets": targets, "effort": "quick", "latency": False}
    report = prune(
        model, tmp_path / "out.onnx", finetune=60, lr=3e-3, trainer="ort-training", **options
    ).report
    assert report.met
    assert report.finetune["after"]["loss"] < report.finetune["before"]["loss"]
    if mode == "weights":
        weights = [w for w in values(onnx.load(tmp_path / "out.onnx")).values() if w.ndim > 1]
        zeros = sum(int((w == 0).sum()) for w in weights)
        assert report.finetune["masked"] == zeros >= 0.8 * sum(w.size for w in weights)
