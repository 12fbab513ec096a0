"""Models that draw numbers: the same ones in every run, distributed as they were, and no training mode."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from nets import build_model

from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.canonical.fixed_numbers import FixNumbers, is_fixable, random_nodes, trained_by_batch
from obs_onnx.runtimes import open_runtime
from obs_onnx.runtimes.onnxruntime import OrtRuntime

RUNTIME = open_runtime(threads=1)


def fixed(text: str, initializers=None, *, opset: int = 18):
    """Output of a graph with one output, as a function of x."""
    model = ir.from_proto(build_model(text, initializers, opset=opset))
    session = RUNTIME.session(serialize(FixNumbers()(model).model))

    def run(x: np.ndarray) -> np.ndarray:
        (y,) = session.run({"x": x}).values()
        np.testing.assert_array_equal(y, *session.run({"x": x}).values())
        return y

    return run


@pytest.mark.parametrize("opset", [11, 13, 15, 18, 21])
@pytest.mark.parametrize(
    ("draw", "mean", "deviation"),
    [
        ("RandomNormalLike<mean=1.0, scale=2.0>(x)", 1.0, 2.0),
        ("RandomUniformLike<low=-1.0, high=3.0>(x)", 1.0, 4 / 12**0.5),
        ("RandomNormal<shape=[100,30]>()", 0.0, 1.0),
    ],
)
def test_what_is_drawn_has_its_distribution(draw: str, mean: float, deviation: float, opset: int) -> None:
    y = fixed(f"g (float[N,30] x) => (float[N,30] y) {{ y = {draw} }}", opset=opset)(
        np.zeros((100, 30), np.float32)
    )
    assert y.shape == (100, 30)
    assert y.mean() == pytest.approx(mean, abs=0.1)
    assert y.std() == pytest.approx(deviation, rel=0.05)


def test_classes_come_with_their_probabilities() -> None:
    text = "g (float[N,3] x) => (int64[N,M] y) { y = Multinomial<dtype=7, sample_size=500>(x) }"
    p = np.array([[0.1, 0.6, 0.3], [0.8, 0.1, 0.1]])
    y = fixed(text)(np.log(p).astype(np.float32))
    assert y.shape == (2, 500)
    found = np.stack([np.bincount(row, minlength=3) / 500 for row in y])
    np.testing.assert_allclose(found, p, atol=0.07)


def test_coins_fall_by_their_inputs() -> None:
    y = fixed("g (float[N,2] x) => (float[N,2] y) { y = Bernoulli(x) }")(
        np.tile(np.array([0.2, 0.9], np.float32), (2000, 1))
    )
    assert set(np.unique(y)) == {0, 1}
    np.testing.assert_allclose(y.mean(axis=0), [0.2, 0.9], atol=0.05)


def test_nodes_do_not_draw_the_same_and_bodies_count() -> None:
    text = """g (float[N,8] x) => (float[N,8] y) {
        a = RandomNormalLike(x)  b = RandomNormalLike(x)
        y = If(yes) <
            then_branch = t () => (float[N,8] r) { c = RandomNormalLike(a)  d = Sub(a, b)  r = Mul(c, d) },
            else_branch = e () => (float[N,8] s) { s = Identity(a) }> }"""
    y = fixed(text, {"yes": np.array(True)})(np.zeros((4, 8), np.float32))
    assert np.count_nonzero(y) == y.size


def test_no_elements() -> None:
    y = fixed("g (float[N,4] x) => (float[N,4] y) { y = RandomNormalLike(x) }")(np.zeros((0, 4), np.float32))
    assert y.shape == (0, 4)


@pytest.mark.parametrize("mode", [True, False])
def test_dropout_in_training_mode_is_off(mode: bool) -> None:
    text = "g (float[N,4] x) => (float[N,4] y) { y = Dropout(x, ratio, mode) }"
    given = {"ratio": np.float32(0.5), "mode": np.array(mode)}
    x = np.ones((50, 4), np.float32)
    np.testing.assert_array_equal(fixed(text, given)(x), x)
    assert len(list(random_nodes(ir.from_proto(build_model(text, given))))) == mode


def test_what_is_not_known_stays() -> None:
    model = ir.from_proto(
        build_model("g (float[N,4] x) => (float[N,4] y) { y = RandomNormalLike(x) }", opset=9)
    )
    (node,) = random_nodes(model)
    assert not is_fixable(model, node)
    assert not FixNumbers()(model).modified
    text = """g (float[N,3] x) => (float[N,3] y, float[3] m, float[3] v) {
        y, m, v = BatchNormalization<training_mode=1>(x, s, b, p, q) }"""
    held = {name: np.ones(3, np.float32) for name in "sbpq"}
    (batch,) = ir.from_proto(build_model(text, held)).graph
    assert trained_by_batch(batch)


def test_a_steadied_runtime_gives_the_same_in_all_sessions() -> None:
    assert isinstance(RUNTIME, OrtRuntime)
    model = build_model("g (float[N,4] x) => (float[N,4] y) { n = RandomNormalLike(x)  y = Add(x, n) }")
    x = np.zeros((3, 4), np.float32)
    runs = [RUNTIME.steadied().session(model.SerializeToString()).run({"x": x})["y"] for _ in range(2)]
    np.testing.assert_array_equal(*runs)
    session = RUNTIME.session(model.SerializeToString())
    assert not np.array_equal(session.run({"x": x})["y"], session.run({"x": x})["y"])
