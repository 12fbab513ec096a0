"""The default engine: steps against a written-out gradient, and going on from a state."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.passes.autodiff.training_step import Term
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.training.engines.base import Task
from obs_onnx.training.engines.graph import GraphEngine
from obs_onnx.training.settings import Settings

TEXT = "g (float[N,4] x) => (float[N,3] z) { z = Gemm(x, w, b) }"


@pytest.fixture
def start(rng) -> dict[str, np.ndarray]:
    return {
        "w": rng.standard_normal((4, 3)).astype(np.float32),
        "b": rng.standard_normal(3).astype(np.float32),
    }


@pytest.fixture
def task(make_model, start):
    """``task(optimizer, **fields)`` of fitting a linear model to numbers."""

    def make(optimizer: str, **fields: object) -> Task:
        model = canonicalize(make_model(TEXT, start))
        settings = Settings(10, optimizer=optimizer, rate=0.1, momentum=0.5, decay=0.0)
        terms = (Term("mse", "z", "target"),)
        return Task(model=model, terms=terms, start=start, settings=settings, **fields)

    return make


def feed(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((8, 4)).astype(np.float32),
        "target": rng.standard_normal((8, 3)).astype(np.float32),
    }


def loss_of(w: np.ndarray, b: np.ndarray, data: dict[str, np.ndarray]) -> float:
    return float(np.mean((data["x"] @ w + b - data["target"]) ** 2))


def test_steps_are_gradient_descent_with_momentum(task, start) -> None:
    engine = GraphEngine(OrtRuntime(threads=1), task("sgd", measured=True))
    w, b, m, n = (start[k].astype(float) for k in "wb"), None, 0.0, 0.0
    w, b = w
    for number in range(4):
        data = feed(number)
        off = data["x"].astype(float) @ w + b - data["target"]
        assert engine.measure(data)[engine.loss] == pytest.approx(loss_of(w, b, data), rel=1e-5)
        assert engine.step(data, 0.1)[engine.loss] == pytest.approx(loss_of(w, b, data), rel=1e-5)
        m, n = 0.5 * m + 2 * data["x"].T @ off / off.size, 0.5 * n + 2 * off.sum(0) / off.size
        w, b = w - 0.1 * m, b - 0.1 * n
        found = engine.weights()
        np.testing.assert_allclose(found["w"], w, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["b"], b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_state_goes_on_where_it_was(task, optimizer: str) -> None:
    whole = GraphEngine(OrtRuntime(threads=1), task(optimizer))
    for number in range(5):
        whole.step(feed(number), 0.1)
    first = GraphEngine(OrtRuntime(threads=1), task(optimizer))
    for number in range(2):
        first.step(feed(number), 0.1)
    second = GraphEngine(OrtRuntime(threads=1), task(optimizer), 2, first.state())
    for number in range(2, 5):
        second.step(feed(number), 0.1)
    for name, array in whole.state().items():
        np.testing.assert_array_equal(second.state()[name], array)


def test_masked_weights_and_what_still_moved_them_stay_still(task, start) -> None:
    """A state may come from a time before the mask: its momentum is forgotten where the mask excludes."""
    free = GraphEngine(OrtRuntime(threads=1), task("sgd"))
    free.step(feed(0), 0.1)
    state = free.state()
    mask = np.arange(12).reshape(4, 3) % 2 > 0
    held = {**state, "w": state["w"] * mask}
    engine = GraphEngine(OrtRuntime(threads=1), task("sgd", masks={"w": mask}), 1, held)
    engine.step(feed(1), 0.1)
    after = engine.weights()["w"]
    assert not after[~mask].any()
    assert (after[mask] != held["w"][mask]).all()
