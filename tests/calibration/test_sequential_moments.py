"""Moments behind the dense prefix and behind a pruned one, against sums over all samples."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from layer_runs import FEEDS, LARGE, RUNTIME, normal, planned, stored

from obs_onnx.calibration import sequential_moments
from obs_onnx.calibration.second_moments import Moments
from obs_onnx.calibration.sequential_moments import SequentialMoments
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.runtimes.sessions.partial_run import every_value

X = np.concatenate([feed["x"] for feed in FEEDS]).astype(np.float64)


def hidden(model: ir.Model) -> np.ndarray:
    return np.maximum(X @ stored(model, "w1") + stored(model, "b1"), 0)


def assert_moments(found: Moments, x: np.ndarray, t: np.ndarray | None) -> None:
    assert found.count == len(x)
    np.testing.assert_allclose(found.xx[0], x.T @ x, rtol=1e-4, atol=1e-3)
    if t is not None:
        np.testing.assert_allclose(found.xt[0], x.T @ t, rtol=1e-4, atol=1e-3)


@pytest.fixture
def pruned(mlp) -> ir.Model:
    """Half of the first weight is zero."""
    model = planned(mlp)[0].clone()
    SetWeights({"w1": stored(model, "w1") * (np.arange(60).reshape(6, 10) % 2)})(model)
    return model


def test_the_dense_prefix(mlp) -> None:
    dense, _, plan = planned(mlp)
    walk = SequentialMoments(RUNTIME, dense, plan, FEEDS, LARGE, paired=False)
    (first,) = walk.observe(plan.stages[0]).values()
    (second,) = walk.observe(plan.stages[1]).values()
    assert_moments(first, X, None)
    assert_moments(second, hidden(dense), None)
    assert second.raw().c is None


def test_inputs_of_the_pruned_prefix_and_targets_of_the_dense_one(mlp, pruned) -> None:
    dense, _, plan = planned(mlp)
    walk = SequentialMoments(RUNTIME, dense, plan, FEEDS, LARGE, paired=True)
    (first,) = walk.observe(plan.stages[0]).values()
    walk.follow(pruned)
    (second,) = walk.observe(plan.stages[1]).values()
    assert_moments(first, X, X @ stored(dense, "w1") + stored(dense, "b1"))
    target = hidden(dense) @ stored(dense, "w2") + stored(dense, "b2")
    assert_moments(second, hidden(pruned), target)


def test_stages_may_be_passed_over(mlp, pruned) -> None:
    dense, _, plan = planned(mlp)
    walk = SequentialMoments(RUNTIME, dense, plan, FEEDS, LARGE, paired=True, start=pruned)
    walk.skip(1, pruned)
    (second,) = walk.observe(plan.stages[1]).values()
    assert_moments(second, hidden(pruned), hidden(dense) @ stored(dense, "w2") + stored(dense, "b2"))


def test_the_error_of_a_skip_is_part_of_the_target(make_model) -> None:
    tensors = {"wp": normal(0, 6, 5), "wa": normal(1, 6, 8), "wb": normal(2, 8, 5)}
    dense, _, plan = planned(
        make_model(
            "g (float[N,6] x) => (float[N,5] y)"
            "{ p = MatMul(x, wp) a = MatMul(x, wa) r = Relu(a) b = MatMul(r, wb) y = Add(b, p) }",
            tensors,
        )
    )
    pruned = dense.clone()
    SetWeights({"wp": 0.5 * stored(dense, "wp"), "wa": 0.25 * stored(dense, "wa")})(pruned)
    walk = SequentialMoments(RUNTIME, dense, plan, FEEDS, LARGE, paired=True)
    walk.observe(plan.stages[0])
    walk.follow(pruned)
    (found,) = walk.observe(plan.stages[1]).values()
    r = np.maximum(X @ stored(dense, "wa"), 0)
    target = r @ stored(dense, "wb") + 0.5 * X @ stored(dense, "wp")
    assert_moments(found, 0.25 * r, target)


def test_uses_of_a_shared_weight_add_up_without_a_target(make_model) -> None:
    text = "g (float[N,6] x) => (float[N,6] y) { a = MatMul(x, s) r = Tanh(a) y = MatMul(r, s) }"
    dense, _, plan = planned(make_model(text, {"s": normal(0, 6, 6, scale=0.3)}))
    walk = SequentialMoments(RUNTIME, dense, plan, FEEDS, LARGE, paired=True)
    (found,) = walk.observe(plan.stages[0]).values()
    r = np.tanh(X @ stored(dense, "s"))
    assert_moments(found, np.concatenate([X, r]), None)
    assert found.raw().c is None


def test_a_part_of_the_dense_values(mlp) -> None:
    """As where the pruned model has fewer channels."""
    dense, _, plan = planned(mlp)
    cut = {"a": [0, 2, 5]}
    walk = SequentialMoments(
        RUNTIME, dense, plan, FEEDS, LARGE, paired=True,
        cut=lambda name, array: array[:, cut[name]] if name in cut else array,
    )  # fmt: skip
    narrow = dense.clone()
    for name in ("w1", "b1"):
        value = narrow.graph.initializers[name]
        value.const_value = ir.tensor(value.const_value.numpy()[..., cut["a"]], name=name)
    narrow_layers = [layer for layer in find_layers(narrow)[0] if layer.name == "w1"]
    (found,) = walk.observe(plan.stages[0], narrow_layers).values()
    target = (X @ stored(dense, "w1") + stored(dense, "b1"))[:, cut["a"]]
    assert_moments(found, X, target)


def test_posing_chooses_a_damping_and_keeps_all_samples(mlp) -> None:
    dense, _, plan = planned(mlp)
    walk = SequentialMoments(RUNTIME, dense, plan, FEEDS, LARGE, paired=False, halves=True)
    ((found, damping),) = walk.pose(plan.stages[0], plan.stages[0].layers, dense, 1e-2).values()
    assert_moments(found, X, None)
    assert damping >= 1e-2


def test_other_lengths_are_posed_on_what_the_dense_model_gives(make_model) -> None:
    """As many rows as the first layer says: 6 in the dense model, 3 in the pruned one."""
    model = make_model(
        """g (float[N,6] x) => (float[M,3] y) {
            h = MatMul(x, w1)  k = ReduceMax<keepdims=0>(h)  c = Cast<to=7>(k)  n = Reshape(c, one)
            e = Slice(x, start, n, start)  y = MatMul(e, w2) }""",
        {
            "w1": np.full((6, 1), 1, np.float32),
            "w2": normal(1, 6, 3),
            "one": np.array([1]),
            "start": np.array([0]),
        },
    )
    dense, _, plan = planned(model)
    small = dense.clone()
    SetWeights({"w1": np.full((6, 1), 0.5)})(small)
    x = np.ones((9, 6), np.float32)
    walk = SequentialMoments(RUNTIME, dense, plan, [{"x": x}], LARGE, paired=True)
    (first,) = walk.observe(plan.stages[0])
    walk.follow(small)
    (second,) = walk.observe(plan.stages[1]).values()
    assert (first, walk.alone) == ("w1", {"w2"})
    assert_moments(second, x[:6], x[:6] @ stored(dense, "w2"))


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(("side", "batches", "step"), [(4, 1, 1), (10, 2, 3), (30, 2, 4), (5, 2, 1)])
def test_some_samples_of_large_images(
    make_model, run_model, monkeypatch: pytest.MonkeyPatch, paired: bool, side: int, batches: int, step: int
) -> None:
    """As many of 16 in each batch as give 50 positions for each of 9 columns, and 8 in all at least."""
    monkeypatch.setattr(sequential_moments, "_POSITIONS", 50)
    monkeypatch.setattr(sequential_moments, "_SAMPLES", 8)
    model = make_model(
        "g (float[N,1,H,W] x) => (float[N,2,H,W] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w, b) }",
        {"w": normal(1, 2, 1, 3, 3), "b": normal(2, 2)},
    )
    dense, _, plan = planned(model)
    feeds = [{"x": normal(number, 14 if side == 10 else 16, 1, side, side)} for number in range(batches)]
    walk = SequentialMoments(RUNTIME, dense, plan, feeds, LARGE, paired=paired)
    (found,) = walk.observe(plan.stages[0]).values()
    expected = Moments(found.goi, targeted=paired)
    for feed in feeds:
        y = run_model(dense, feed)["y"][::step] if paired else None
        expected.update(feed["x"][::step], plan.stages[0].layers[0].uses[0].geometry, y)
    assert found.count == expected.count
    for actual, wanted in zip(found.arrays(), expected.arrays(), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-3)


BRANCHES = {
    "rows": (
        "float[N,T,6]",
        "a = MatMul(x, u)  b = MatMul(x, v)  r = Add(a, b)  y = MatMul(r, w)",
        (9, 5, 6),
    ),
    "columns": (
        "float[N,6,T]",
        "a = MatMul(u, x)  b = MatMul(v, x)  r = Add(a, b)  y = MatMul(w, r)",
        (9, 6, 5),
    ),
    "images": (
        "float[N,6,H,W]",
        "a = Conv(x, u)  b = Conv(x, v)  r = Add(a, b)  y = Conv(r, w)",
        (9, 6, 3, 4),
    ),
}


@pytest.mark.parametrize("kind", BRANCHES)
@pytest.mark.parametrize("paired", [False, True])
def test_layers_that_read_the_same_values(make_model, run_model, kind: str, paired: bool) -> None:
    """Their moments are computed once, and are what they would be one by one."""
    declared, body, shape = BRANCHES[kind]
    sizes = {"u": (6, 4), "v": (6, 4), "w": (4, 3)}
    weights = {key: normal(number, *size) for number, (key, size) in enumerate(sizes.items())}
    if kind != "rows":
        weights = {key: array.T.copy() for key, array in weights.items()}
    if kind == "images":
        weights = {key: array[:, :, None, None] for key, array in weights.items()}
    out = declared.replace("6", "3")
    model = make_model(f"g ({declared} x) => ({out} y) {{ {body} }}", weights)
    dense, layers, plan = planned(model)
    feeds = [{"x": normal(number, *shape)} for number in range(2)]
    walk = SequentialMoments(RUNTIME, dense, plan, feeds, LARGE, paired=paired)
    found = walk.observe(plan.stages[0])
    assert set(found) == {"u", "v"}
    tapped = [every_value(RUNTIME, dense, feed) for feed in feeds]
    for layer in layers[:2]:
        expected, use = Moments(layer.layout.goi, targeted=paired), layer.uses[0]
        for values in tapped:
            expected.update(values["x"], use.geometry, values[use.y] if paired else None)
        for actual, wanted in zip(found[layer.name].arrays(), expected.arrays(), strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-3)
    first, second = found.values()
    first.xx[...] = 0
    assert second.xx.any()
