"""Training from files to files: forms of data and of models, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from easy_training import DEEP, tensors, values
from quantized_graphs import FORMATS, images, random_net

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


PAIRS = """g (float[N, 6] x) => (float[N, 4] z) {
    qx = QuantizeLinear(x, sx, zx)  dx = DequantizeLinear(qx, sx, zx)
    u = DequantizeLinear <axis = 1> (u_q, u_s, u_z)  a = MatMul(dx, u)  h = Relu(a)
    qh = QuantizeLinear(h, sh, zh)  dh = DequantizeLinear(qh, sh, zh)
    v = DequantizeLinear(v_q, v_s, v_z)  z = MatMul(dh, v)
}"""


def paired(make_proto, rng):
    """A perceptron in pairs, a third of whose first weights are zero."""
    q = rng.integers(0, 256, (6, 16))
    zero = rng.integers(100, 156, 16)
    q = np.where(rng.random(q.shape) < 1 / 3, zero, q)
    held = {
        "sx": np.float32(0.06),
        "zx": np.asarray(128, np.uint8),
        "sh": np.float32(0.04),
        "zh": np.asarray(-128, np.int8),
        "u_q": q.astype(np.uint8),
        "u_s": rng.uniform(0.005, 0.01, 16).astype(np.float32),
        "u_z": zero.astype(np.uint8),
        "v_q": rng.integers(-100, 100, (16, 4)).astype(np.int8),
        "v_s": np.float32(0.01),
        "v_z": np.asarray(0, np.int8),
    }
    return make_proto(PAIRS, held, opset=13), held


def in_integers(held, x):
    """What the operators of the graph are defined to give."""

    def rounded(x, s, z):
        limits = np.iinfo(z.dtype)
        return (np.clip(np.rint(x / s) + z, limits.min, limits.max) - z) * s

    u = (held["u_q"].astype(np.float32) - held["u_z"]) * held["u_s"]
    v = (held["v_q"].astype(np.float32) - held["v_z"]) * held["v_s"]
    h = np.maximum(rounded(x, held["sx"], held["zx"]) @ u, 0)
    return rounded(h, held["sh"], held["zh"]) @ v


@pytest.mark.parametrize("optimizer", ["foof", "adam"])
def test_integers_are_trained_in_place(make_proto, rng, easy, optimizer, tmp_path):
    model, held = paired(make_proto, rng)
    out = tmp_path / "out.onnx"
    found = finetune(model, easy, steps=200, batch=32, optimizer=optimizer, lr=0.01, eval=easy, output=out)
    report = found.report
    assert report.after.loss < 0.5 * report.before.loss
    assert report.after.accuracy > 0.9
    assert report.masked == (held["u_q"] == held["u_z"]).sum()
    written = onnx.load(out)
    assert [node.op_type for node in written.graph.node] == [node.op_type for node in model.graph.node]
    after = {t.name: onnx.numpy_helper.to_array(t) for t in written.graph.initializer}
    assert {n: (a.dtype, a.shape) for n, a in after.items()} == {
        n: (a.dtype, a.shape) for n, a in held.items()
    }
    assert all(np.array_equal(after[n], held[n]) for n in held if n not in ("u_q", "v_q"))
    assert (after["v_q"] != held["v_q"]).mean() > 0.3
    np.testing.assert_array_equal((after["u_q"] == after["u_z"])[held["u_q"] == held["u_z"]], True)
    z = in_integers(after, easy["x"])
    np.testing.assert_allclose(run_unoptimized(written, {"x": easy["x"]}), z, atol=0.05)
    scores = z - z.max(1, keepdims=True)
    likely = scores[np.arange(len(z)), easy["labels"]] - np.log(np.exp(scores).sum(1))
    assert report.after.loss == pytest.approx(-likely.mean(), rel=1e-3)  # that of the integers


def run_unoptimized(proto, feed):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


@pytest.mark.parametrize("form", ["QOperator u8s8 per channel", "dynamic u8", "blocks of 4 bits"])
def test_operators_on_integers_are_trained_and_stay(form, tmp_path):
    seed = 2
    given, x = FORMATS[form](random_net(seed), tmp_path, seed), images(seed, 96)
    data = {"x": x}
    found = finetune(given, data, teacher=random_net(seed), steps=40, batch=16, eval=data, lr=0.001)
    assert found.report.after.loss < 0.95 * found.report.before.loss
    written = ir.to_proto(found.model)
    before, after = ({t.name: t.data_type for t in one.graph.initializer} for one in (given, written))
    assert all(before[name] == kind for name, kind in after.items() if name in before)
    kept = {"QLinearConv", "QLinearMatMul", "QLinearAdd", "ConvInteger", "MatMulInteger", "MatMulNBits"}
    counts = [sorted(n.op_type for n in one.graph.node if n.op_type in kept) for one in (given, written)]
    assert counts[0] == counts[1]
    assert counts[0]
    onnx.checker.check_model(written)


def test_zeros_of_integers_may_move_where_that_is_asked_for(make_proto, rng, easy):
    model, held = paired(make_proto, rng)
    found = finetune(model, easy, steps=60, lr=0.01, eval=easy, keep_zeros=False)
    after = {t.name: onnx.numpy_helper.to_array(t) for t in ir.to_proto(found.model).graph.initializer}
    assert ((after["u_q"] == after["u_z"]) & (held["u_q"] == held["u_z"])).sum() < (
        held["u_q"] == held["u_z"]
    ).sum()
