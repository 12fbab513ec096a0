"""Artifacts for training on devices: complete, tried, with zeros that stay; or nothing at all."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from artifact_runs import NAMES, thinned

from obs_onnx import artifacts
from obs_onnx.passes.errors import GradientError, ModelError, OptionError, VerificationError

pytestmark = pytest.mark.usefixtures("package")


def values(model):
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def trained(folder, x, labels, steps):
    """Losses of steps as a device would make them, with the files alone, and the weights after them."""
    from obs_onnx.training.engines.ort_artifacts import _package

    api = _package().api
    state = api.CheckpointState.load_checkpoint(str(folder / "checkpoint"))
    module = api.Module(str(folder / "training_model.onnx"), state, str(folder / "eval_model.onnx"))
    optimizer = api.Optimizer(str(folder / "optimizer_model.onnx"), module)
    optimizer.set_learning_rate(0.02)
    losses = []
    for _ in range(steps):
        module.train()
        losses.append(float(module(x, labels)))
        optimizer.step()
        module.lazy_reset_grad()
    return losses, {name: parameter.data for name, parameter in state.parameters}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("name", ["mlp", "conv", "residual", "normalized", "attention"])
def test_a_device_trains_from_the_files(net, data, tmp_path, name, optimizer):
    onnx.save(net(name), tmp_path / "m.onnx")
    found = artifacts(tmp_path / "m.onnx", tmp_path / "out", optimizer=optimizer)
    assert set(os.listdir(tmp_path / "out")) == set(found.files) == NAMES
    assert set(os.listdir(tmp_path)) == {"m.onnx", "out"}
    assert found.bytes == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert found.inputs == ("x", "labels")
    assert found.gradient_error < 1e-3
    samples = data(name, 24)
    steps = 60 if optimizer == "adamw" else 200
    losses, weights = trained(tmp_path / "out", samples["x"], samples["labels"], steps)
    assert losses[-1] < 0.95 * losses[0]
    assert set(weights) == set(found.trained)


@pytest.mark.parametrize("keep", [False, True])
def test_zeros(net, data, rng, tmp_path, keep):
    model = thinned(net("conv"), rng)
    before = values(model)
    found = artifacts(model, tmp_path / "out", keep_zeros=keep)
    samples = data("conv", 24)
    _, after = trained(tmp_path / "out", samples["x"], samples["labels"], 5)
    zeros = {name: before[name] == 0 for name in ("w1", "w2", "w3")}
    if keep:
        assert found.masked == sum(mask.sum() for mask in zeros.values())
        assert all(np.array_equal(after[name] == 0, mask) for name, mask in zeros.items())
    else:
        assert found.masked == 0
        assert np.count_nonzero(after["w2"]) > np.count_nonzero(before["w2"])


def test_only_some_weights(net, data, tmp_path):
    found = artifacts(net("mlp"), tmp_path / "out", requires_grad=["*2"])
    assert set(found.trained) == {"w2", "b2"}
    samples = data("mlp", 24)
    losses, weights = trained(tmp_path / "out", samples["x"], samples["labels"], 30)
    assert losses[-1] < losses[0]
    assert set(weights) == {"w2", "b2"}


@pytest.mark.parametrize("loss", ["mse", "kl", "relative_error", "sum_of_squares"])
def test_losses(net, tmp_path, loss):
    found = artifacts(net("mlp"), tmp_path / "out", loss=loss)
    assert found.gradient_error < 1e-3
    target = {"kl": ("teacher",), "sum_of_squares": ()}.get(loss, ("labels",))
    assert found.inputs == ("x", *target)


def test_scores_are_taken_before_a_softmax(make_proto, rng, tmp_path):
    weights = {"w": rng.standard_normal((6, 4)).astype(np.float32)}
    text = "g (float[N, 6] x) => (float[N, 4] p) { z = MatMul(x, w)  p = Softmax <axis = -1> (z) }"
    artifacts(make_proto(text, weights), tmp_path / "out")
    x, labels = rng.standard_normal((8, 6)).astype(np.float32), rng.integers(0, 4, 8)
    (loss,), _ = trained(tmp_path / "out", x, labels, 1)
    z = x @ weights["w"]
    wanted = np.log(np.exp(z).sum(1)) - z[np.arange(8), labels]
    assert loss == pytest.approx(wanted.mean(), rel=1e-5)


@pytest.mark.parametrize(("opset", "ir_version"), [(9, 4), (13, 8), (21, 10), (22, 10), (23, 11)])
def test_versions(make_proto, rng, tmp_path, opset, ir_version):
    weights = {"w": rng.standard_normal((4, 2, 3, 3)), "v": rng.standard_normal((4, 3))}
    text = """g (float[N, 2, 8, 8] x) => (float[N, 3] z) {
        c = Conv(x, w)  r = Relu(c)  p = GlobalAveragePool(r)  f = Flatten(p)  z = MatMul(f, v)
    }"""
    weights = {k: w.astype(np.float32) for k, w in weights.items()}
    proto = make_proto(text, weights, opset=opset, ir_version=ir_version)
    assert artifacts(proto, tmp_path / "out").gradient_error < 1e-3


def test_what_cannot_be_converted_is_refused(make_proto, rng, tmp_path):
    text = """g (float[N, 6] x) => (float[N, 6] z) {
        a = MatMul(x, w)  z = RMSNormalization <axis = -1> (a, s)
    }"""
    weights = {"w": rng.standard_normal((6, 6)).astype(np.float32), "s": np.ones(6, np.float32)}
    with pytest.raises(ModelError, match="opset 21 at most"):
        artifacts(make_proto(text, weights, opset=23, ir_version=11), tmp_path / "out")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"optimizer": "lion"}, OptionError, "lion"),
        ({"loss": "hinge"}, GradientError, "hinge"),
        ({"requires_grad": ["q*"]}, OptionError, "q"),
    ],
)
def test_bad_options_write_nothing(net, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        artifacts(net("mlp"), tmp_path / "out", **options)
    assert not os.listdir(tmp_path)


def test_a_folder_with_files_is_not_touched(net, tmp_path):
    (tmp_path / "out").mkdir()
    artifacts(net("mlp"), tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(OptionError, match="exists"):
        artifacts(net("mlp"), tmp_path / "out")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}


def test_wrong_gradients_are_found(make_proto, rng, tmp_path, monkeypatch):
    """The package's gradient for padding chosen by itself is wrong; without the rewriting that must show."""
    from obs_onnx.training.engines import ort_artifacts as ort_training

    text = """g (float[N, 2, 8, 8] x) => (float[N, 4] z) {
        a = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w)  t = Tanh(a)
        p = GlobalAveragePool(t)  z = Flatten(p)
    }"""
    model = make_proto(text, {"w": rng.standard_normal((4, 2, 3, 3)).astype(np.float32)})
    assert artifacts(model, tmp_path / "right").gradient_error < 1e-3
    monkeypatch.setattr(ort_training.Elementary, "call", lambda self, model: None)
    with pytest.raises(VerificationError, match="gradient of 'w'"):
        artifacts(model, tmp_path / "wrong")
    assert os.listdir(tmp_path) == ["right"]


def test_the_loss_is_of_what_a_decision_is_taken_on(make_proto, rng, tmp_path):
    body = "a = MatMul(x, w)  h = Tanh(a)  z = MatMul(h, v)"
    weights = {"w": rng.standard_normal((4, 6)), "v": rng.standard_normal((6, 3))}
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    decided = f"g (float[N,4] x) => (int64[N,1] y) {{ {body}  y = ArgMax <axis = 1> (z) }}"
    plain = f"g (float[N,4] x) => (float[N,3] z) {{ {body} }}"
    found, expected = (
        artifacts(make_proto(text, weights), tmp_path / name)
        for name, text in (("decided", decided), ("plain", plain))
    )
    assert (found.loss, found.trained) == (expected.loss, expected.trained)
