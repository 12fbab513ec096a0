"""Steps of all weights together: zeros stay, held-out data decides, and what cannot be done is said."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.data.open_source import open_source, split
from obs_onnx.evaluation.measures.yardstick import read_outputs
from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import GradientError, OptionError
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.reconstruction.outputs import Corrected, Steps, correct_outputs
from obs_onnx.runtimes import calibration_runtime

TEXT = "g (float[N,6] x) => (float[N,3] y) { a = Gemm(x, w1, b1) h = Relu(a) y = Gemm(h, w2, b2) }"
SHAPES = {"w1": (6, 24), "b1": (24,), "w2": (24, 3), "b2": (3,)}
STEPS = Steps(steps=4, gradient=512, curvature=512, products=8)


@pytest.fixture
def dense(make_model, rng) -> ir.Model:
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    return canonicalize(make_model(TEXT, weights))


def of(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy()


def pruned(model: ir.Model) -> ir.Model:
    w = of(model, "w1")
    return SetWeights({"w1": np.where(np.abs(w) < np.median(np.abs(w)), 0, w)})(model.clone()).model


def corrected(model: ir.Model, dense: ir.Model, count: int = 320, steps: Steps = STEPS, **given) -> Corrected:
    runtime = calibration_runtime("onnxruntime", 1, ())
    session = runtime.session(serialize(dense))
    x = np.random.default_rng(3).standard_normal((count, 6)).astype(of(dense, "w1").dtype)
    fit, held_out = split(open_source({"x": x}, session.inputs, batch_size=50), 0.25, 0)
    measured = read_outputs(session, held_out, model=dense, task="regression")
    return correct_outputs(runtime, model, session, fit, held_out, measured, steps, **given)


def test_the_held_out_loss_falls_and_zeros_stay_zero(dense) -> None:
    model = pruned(dense)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    found = corrected(model, dense)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert found.steps
    assert found.after < 0.5 * found.before
    zero = of(model, "w1") == 0
    assert not found.weights["w1"][zero].any()
    assert (found.weights["w1"] != of(model, "w1"))[~zero].any()
    again = corrected(model, dense)
    for name, array in found.weights.items():
        np.testing.assert_array_equal(array, again.weights[name])


@pytest.mark.parametrize("count", [16, 40])
def test_it_is_never_worse_on_held_out_data(dense, count) -> None:
    """Far more weights than samples."""
    found = corrected(pruned(dense), dense, count)
    assert found.after <= found.before
    assert bool(found.weights) == bool(found.steps)


def test_the_dense_model_stays_as_it_is(dense) -> None:
    assert corrected(dense, dense) == Corrected({}, 0.0, 0.0, 0)


def test_frozen_weights_stay(dense) -> None:
    assert set(corrected(pruned(dense), dense, frozen={"w1", "b2"}).weights) == {"w2", "b1"}


def test_what_cannot_be_done_is_said(dense, make_model) -> None:
    with pytest.raises(OptionError, match="weights, and the memory is enough for 10"):
        corrected(pruned(dense), dense, most=10)
    half = {name: of(dense, name).astype(np.float16) for name in SHAPES}
    model = canonicalize(make_model(TEXT.replace("float[", "float16["), half))
    with pytest.raises(OptionError, match="FLOAT16: only float32 and float64 are trained"):
        corrected(model, model)
    odd = canonicalize(
        make_model(TEXT.replace("h = Relu(a)", "s = Hardmax(a) h = Relu(s)"), dense_weights(dense))
    )
    with pytest.raises(GradientError, match="no gradient for node"):
        corrected(odd, odd)


def dense_weights(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: of(model, name) for name in SHAPES}


def test_what_steps_take_is_counted() -> None:
    steps = Steps(steps=2, gradient=100, curvature=50, products=3)
    assert steps.macs(10, 1000, 20) == 10 * (3 * 2 * 100 + 5 * 50 * (3 * 2 + 2) + 2 * 5 * 20)
    assert steps.macs(10, 40, 20) == 10 * (3 * 2 * 40 + 5 * 40 * (3 * 2 + 2) + 2 * 5 * 20)
