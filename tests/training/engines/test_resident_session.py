"""Values that stay in the runtime from step to step."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from nets import build_model

from obs_onnx.passes.errors import ModelError
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.training.engines.resident_session import Measured, Resident

STEP = """g (float[N] x, float[3] w, float[3] m) => (float[3] w2, float[3] m2, float[N] y) {
    m2 = Add(m, w)  w2 = Mul(w, m)  y = Neg(x)
}"""
START = {"w": np.array([1, 2, 3], np.float32), "m": np.array([1, -1, 2], np.float32)}
CARRIED = {"w2": "w", "m2": "m"}


@pytest.fixture
def resident() -> Resident:
    return Resident(OrtRuntime(threads=1), build_model(STEP).SerializeToString(), CARRIED, START)


def test_outputs_of_a_step_are_inputs_of_the_next(resident: Resident) -> None:
    w, m = START["w"], START["m"]
    for step in range(5):
        found = resident.state(["w", "m"])
        np.testing.assert_array_equal(found["w"], w)
        np.testing.assert_array_equal(found["m"], m)
        x = np.array([step, 7], np.float32)
        (shown,) = resident.run({"x": x}).items()
        assert shown[0] == "y"
        np.testing.assert_array_equal(shown[1], -x)
        w, m = w * m, m + w


def test_the_start_and_what_was_taken_out_stay(resident: Resident) -> None:
    before = {name: array.copy() for name, array in START.items()}
    taken = resident.state(["w"])["w"]
    for _ in range(3):
        resident.run({"x": np.ones(1, np.float32)})
    np.testing.assert_array_equal(taken, before["w"])
    for name, array in START.items():
        np.testing.assert_array_equal(array, before[name])


def test_weights_are_measured_as_they_are_now(resident: Resident) -> None:
    model = build_model(
        "g (float[3] w, float[3] t) => (float loss) { d = Sub(w, t) loss = ReduceSum<keepdims=0>(d) }"
    )
    measured = Measured(OrtRuntime(threads=1), model.SerializeToString())
    feed = {"t": np.ones(3, np.float32), "not of the graph": np.ones(1, np.float32)}
    assert measured.run(feed, resident.shared(["w", "m"]))["loss"] == 3
    resident.run({"x": np.ones(1, np.float32)})
    w = START["w"] * START["m"]
    assert measured.run(feed, resident.shared(["w", "m"]))["loss"] == w.sum() - 3
    with pytest.raises(ModelError, match="cannot run the model"):
        measured.run({"t": np.ones(5, np.float32)}, resident.shared(["w"]))


def test_a_step_that_fails_is_an_error_of_one_line() -> None:
    model = ir.to_proto(ir.from_proto(build_model(STEP.replace("y = Neg(x)", "y = Add(x, w)"))))
    resident = Resident(OrtRuntime(threads=1), model.SerializeToString(), CARRIED, START)
    with pytest.raises(ModelError, match="cannot run a training step") as caught:
        resident.run({"x": np.ones(2, np.float32)})
    assert "\n" not in str(caught.value)


def test_batches_of_any_size_in_any_order(resident: Resident) -> None:
    for size in (2, 5, 1, 5, 3, 3):
        x = np.arange(size, dtype=np.float32)
        np.testing.assert_array_equal(resident.run({"x": x})["y"], -x)


def test_a_number_stays_one() -> None:
    model = build_model("g (float t, float[1] w) => (float[1] w2, float u) { w2 = Add(w, w) u = Neg(t) }")
    resident = Resident(
        OrtRuntime(threads=1), model.SerializeToString(), {"w2": "w"}, {"w": np.ones(1, np.float32)}
    )
    assert resident.run({"t": np.float32(3)})["u"].shape == ()
