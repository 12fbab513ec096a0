"""Training from files to files: forms of data and of models, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from easy_training import DEEP, tensors, values

from obs_onnx import finetune
from obs_onnx.passes.errors import DataError, OptionError


def test_streams_and_batches_of_fixed_size(make_proto, easy, rng):
    text = DEEP.replace("float[N", "float[8")
    model = make_proto(text, tensors(rng, w1=(6, 16), b1=(16,), w2=(16, 4), b2=(4,)))
    feeds = [({"x": easy["x"][i : i + 8]}, easy["labels"][i : i + 8]) for i in range(0, 400, 8)]
    for data in (easy, feeds):
        report = finetune(model, data, steps=100, lr=0.02).report
        assert report.after.loss < 0.5 * report.before.loss


@pytest.mark.parametrize("data", ["arrays", "generator", "samples one by one"])
def test_a_model_for_one_sample_is_trained_in_batches_and_stays_what_it_was(make_proto, rng, easy, data):
    wide, one = (DEEP.replace("float[N", f"float[{n}") for n in ("N", "1"))
    held = tensors(rng, w1=(6, 16), b1=(16,), w2=(16, 4), b2=(4,))
    free, fixed = make_proto(wide, held), make_proto(one, held)
    x, labels = easy["x"], easy["labels"]
    given = {
        "arrays": easy,
        "generator": (({"x": x[i : i + 1]}, labels[i : i + 1]) for i in range(len(x))),
        "samples one by one": [({"x": x[i : i + 1]}, labels[i : i + 1]) for i in range(len(x))],
    }[data]
    options = {"steps": 40, "lr": 0.02, "batch": 32, "eval": easy}
    found = finetune(fixed, given, **options)
    assert found.report.after.loss < 0.5 * found.report.before.loss
    assert [str(n) for n in found.model.graph.inputs[0].shape] == ["1", "6"]
    assert found.model.graph.outputs[0].shape[0] == 1
    if data == "arrays":  # the very same training
        like = finetune(free, given, **options)
        assert found.report.after.loss == pytest.approx(like.report.after.loss, rel=1e-5)
    taught = finetune(fixed, {"x": x}, teacher=found.model, steps=40, lr=0.02, batch=32).report
    assert taught.after.loss < 0.5 * taught.before.loss


def test_views_of_images(make_proto, rng):
    text = "g (float[N, 1, 4, 4] x) => (float[N, 2] z) { f = Flatten(x)  z = Gemm(f, w, b) }"
    model = make_proto(text, tensors(rng, w=(16, 2), b=(2,)))
    x = rng.standard_normal((512, 1, 4, 4)).astype(np.float32)
    data, options = {"x": x, "labels": (x[..., 0].sum((1, 2)) > 0).astype(int)}, {"steps": 300, "lr": 0.05}
    plain, mirrored = (finetune(model, data, augment=views, **options).report for views in ("", "flip"))
    assert plain.after.accuracy > 0.95  # the label is about one side
    assert mirrored.after.accuracy < 0.9
    with pytest.raises(OptionError, match="'turn'"):
        finetune(model, data, steps=1, augment="turn")


def test_old_opsets_and_batch_normalization(make_proto, rng):
    text = """g (float[N, 2, 6, 6] x) => (float[N, 3] z) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w)
        n = BatchNormalization (c, scale, shift, mean, var)
        r = Relu (n)  p = GlobalAveragePool (r)  f = Flatten (p)  z = Gemm (f, v, b)
    }"""
    weights = tensors(rng, w=(4, 2, 3, 3), scale=(4,), shift=(4,), mean=(4,), v=(4, 3), b=(3,))
    weights["var"] = rng.uniform(0.5, 2, 4).astype(np.float32)
    x = rng.standard_normal((96, 2, 6, 6)).astype(np.float32)
    labels = (x.mean((2, 3))[:, 0] > 0).astype(int) + (x.mean((2, 3))[:, 1] > 0)
    for opset, fold in ((9, True), (9, False), (18, False)):
        model = make_proto(text, weights, opset=opset)
        found = finetune(model, {"x": x, "labels": labels}, steps=60, lr=0.02, fold=fold)
        assert found.report.after.loss < 0.9 * found.report.before.loss
        names = values(found.model)
        assert ("mean" in names) == (not fold)
        if not fold:
            assert np.array_equal(names["mean"], values(model)["mean"])
            assert not np.array_equal(names["scale"], values(model)["scale"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"optimizer": "lion"}, OptionError, "lion"),
        ({"lr": -1.0}, OptionError, "lr -1.0: use more than 0"),
        ({"steps": 0}, OptionError, "steps 0"),
        ({"resume": True}, OptionError, "checkpoint"),
        ({"data": {"x": np.zeros((20, 6), np.float32)}}, DataError, "nothing to learn"),
        ({"labels": "y"}, DataError, "'y'"),
    ],
)
def test_bad_options(deep, easy, options, error, message):
    with pytest.raises(error, match=message):
        finetune(deep, **{"data": easy, "steps": 2, **options})


def test_weights_in_half_precision_are_refused(make_proto, easy):
    text = "g (float16[N, 6] x) => (float16[N, 4] z) { z = MatMul(x, w) }"
    model = make_proto(text, {"w": np.ones((6, 4), np.float16)})
    with pytest.raises(OptionError, match="FLOAT16"):
        finetune(model, {**easy, "x": easy["x"].astype(np.float16)}, steps=2)
