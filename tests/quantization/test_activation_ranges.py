"""Ranges of activations by several methods."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.data.open_source import open_source
from obs_onnx.io.onnx_file import serialize
from obs_onnx.quantization.activation_ranges import METHODS, Histogram, observe, ranges
from obs_onnx.runtimes import open_runtime

RUNTIME = open_runtime("onnxruntime", 1)


def histogram(values: np.ndarray) -> Histogram:
    low, high = float(values.min()), float(values.max())
    return Histogram(low, high, np.histogram(values, 2048, (low, high))[0])


def error(values: np.ndarray, low: float, high: float) -> float:
    step = (high - low) / 255
    return float(np.mean((np.rint(np.clip(values, low, high) / step) * step - values) ** 2))


def test_percentiles_leave_out_so_much_at_each_end() -> None:
    values = np.arange(100_000.0)
    low, high = histogram(values).percentile(0.01)
    assert low == pytest.approx(1000, abs=50)
    assert high == pytest.approx(99_000, abs=50)
    one = np.zeros(1000)
    one[0] = 1.0
    assert histogram(one).percentile(1e-5) == (0.0, 1.0)


def test_least_squares_cuts_off_what_is_rare() -> None:
    rng = np.random.default_rng(0)
    values = np.append(rng.normal(size=100_000), 40.0)
    found = histogram(values)
    low, high = found.least_squares()
    assert high < 0.9 * found.high
    assert error(values, low, high) < 0.9 * error(values, found.low, found.high)
    uniform = np.linspace(-1, 1, 10_001)
    assert histogram(uniform).least_squares() == (-1.0, 1.0)


@pytest.fixture
def model(make_model: Callable[..., ir.Model]) -> ir.Model:
    return make_model(
        "g (float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) b = Relu(a) c = Mul(b, large) y = Add(b, c) }",
        {"w": np.eye(4, dtype=np.float32), "large": np.full(1, np.inf, np.float32)},
    )


def test_values_are_observed_and_what_is_not_finite_is_left_out(model: ir.Model) -> None:
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    source = open_source({"x": x}, RUNTIME.session(serialize(model)).inputs, batch_size=8)
    found = observe(model, ["x", "a", "b", "c"], source, RUNTIME)
    assert set(found) == {"x", "a", "b"}
    assert (found["a"].low, found["a"].high) == (x.min(), x.max())
    assert found["a"].counts.sum() == x.size
    for method in METHODS:
        chosen = ranges(model, found, method)
        assert chosen["a"] == chosen["b"], "what a Relu reads has the range of what it gives"
        assert chosen["b"][0] == 0
        assert chosen["x"][0] < 0
        most = 1.1 if "tenth" in method else 1 + 1e-6
        assert chosen["x"][1] <= x.max() * most
