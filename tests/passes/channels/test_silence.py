"""Silenced channels against models written down without them, in NumPy."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_graphs import found, model, node, normal
from channel_helpers import run

from obs_onnx.passes.channels.silence import silence

KEEP = np.array([True, False, True, True, False])
X = normal(3, 4, 6, 6)
W = normal(5, 4, 1, 1)
B = normal(5)


def hidden(x: np.ndarray) -> np.ndarray:
    """The channels that stay of the pointwise convolution in front."""
    return (np.einsum("nchw,oc->nohw", x, W[:, :, 0, 0]) + B[:, None, None])[:, KEEP]


def silenced(*nodes, opset: int = 18, **weights: np.ndarray) -> np.ndarray:
    """Outputs with two of five channels silenced; the model keeps all of its shapes."""
    proto = model(
        [node("Conv", "x w b", "h"), *nodes], {"w": W, "b": B, **weights}, x=("N", 4, 6, 6), opset=opset
    )
    coupling = found(proto)
    (group,) = (group for group in coupling.groups if group.n == 5)
    reference = silence(coupling.model, {group.id: KEEP}, coupling)
    before = {name: value.shape for name, value in coupling.model.graph.initializers.items()}
    after = {name: value.shape for name, value in reference.graph.initializers.items() if name in before}
    assert after == before
    assert coupling.model.graph is not reference.graph
    return run(reference, X)


def test_nothing_before_a_sum() -> None:
    v = normal(2, 5, 3, 3)
    y = silenced(node("Sigmoid", "h", "s"), node("Conv", "s v", "y"), v=v)
    s = 1 / (1 + np.exp(-hidden(X)))
    windows = np.lib.stride_tricks.sliding_window_view(s, (3, 3), axis=(2, 3))
    np.testing.assert_allclose(y, np.einsum("nchwij,ocij->nohw", windows, v[:, KEEP]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("op_type", "reduce"),
    [
        ("ReduceMean", np.mean), ("ReduceSum", np.sum), ("ReduceMax", np.max), ("ReduceMin", np.min),
        ("ReduceProd", np.prod),
    ],
)  # fmt: skip
def test_the_neutral_element_of_each_reduction(op_type: str, reduce) -> None:
    """Means count the elements that stay."""
    y = silenced(node(op_type, "h axes", "y", keepdims=1), axes=np.array([1]))
    np.testing.assert_allclose(y, reduce(hidden(X), axis=1, keepdims=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [17, 18])
def test_layer_normalization_has_the_statistics_of_those_that_stay(opset: int) -> None:
    scale, shift, v = normal(5), normal(5), normal(5, 2)
    y = silenced(
        node("Transpose", "h", "t", perm=[0, 2, 3, 1]),
        node("LayerNormalization", "t scale shift", "n", axis=-1, epsilon=0.5),
        node("MatMul", "n v", "y"),
        opset=opset,
        scale=scale,
        shift=shift,
        v=v,
    )
    t = hidden(X).transpose(0, 2, 3, 1).astype(np.float64)
    n = (t - t.mean(-1, keepdims=True)) / np.sqrt(t.var(-1, keepdims=True) + 0.5)
    np.testing.assert_allclose(y, (n * scale[KEEP] + shift[KEEP]) @ v[KEEP], rtol=1e-4, atol=1e-4)


def test_nothing_removed_changes_nothing_and_another_model_is_refused() -> None:
    proto = model(
        [node("Conv", "x w b", "h"), node("ReduceMax", "h", "y")], {"w": W, "b": B}, x=("N", 4, 6, 6)
    )
    coupling = found(proto)
    every = {group.id: np.ones(group.n, bool) for group in coupling.groups}
    reference = silence(coupling.model, every, coupling)
    assert [one.op_type for one in reference.graph] == [one.op_type for one in coupling.model.graph]
    with pytest.raises(ValueError, match="another model"):
        silence(ir.from_proto(proto), every, coupling)


@pytest.mark.parametrize(("op_type", "largest"), [("ReduceMax", np.max), ("ReduceMin", np.min)])
@pytest.mark.parametrize("kind", [onnx.TensorProto.INT32, onnx.TensorProto.INT64])
def test_extremes_of_integers(op_type: str, largest, kind: int) -> None:
    v = normal(2, 5, 1, 1)
    y = silenced(
        node("Mul", "h ten", "t"),
        node("Cast", "t", "i", to=kind),
        node(op_type, "i axis", "m"),
        node("Cast", "m", "f", to=onnx.TensorProto.FLOAT),
        node("Conv", "h v", "c"),
        node("Add", "c f", "y"),
        ten=np.float32(10),
        axis=np.array([1]),
        v=v,
    )
    h = hidden(X)
    expected = np.einsum("nchw,oc->nohw", h, v[:, KEEP, 0, 0]) + largest(np.trunc(10 * h), 1, keepdims=True)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("op_type", "which"), [("ReduceMax", np.any), ("ReduceMin", np.all)])
def test_extremes_of_truth_values(op_type: str, which) -> None:
    y = silenced(
        node("Greater", "h zero", "b1"),
        node(op_type, "b1 axis", "m"),
        node("Cast", "m", "y", to=onnx.TensorProto.FLOAT),
        opset=20,
        zero=np.float32(0.3),
        axis=np.array([1]),
    )
    np.testing.assert_array_equal(y, which(hidden(X) > 0.3, axis=1, keepdims=True).astype(np.float32))


def test_means_of_integers_are_rounded_and_stay() -> None:
    nodes = [
        node("Conv", "x w b", "h"),
        node("Cast", "h", "i", to=onnx.TensorProto.INT32),
        node("ReduceMean", "i axis", "m"),
        node("Cast", "m", "y", to=onnx.TensorProto.FLOAT),
    ]
    coupling = found(model(nodes, {"w": W, "b": B, "axis": np.array([1])}, x=("N", 4, 6, 6)))
    assert not coupling.groups
    assert "it rounds a mean" in {frozen.reason for frozen in coupling.frozen}


@pytest.mark.parametrize("index", [1, 2])
def test_statistics_of_a_normalization_are_those_of_what_stays(index: int) -> None:
    outputs = ["n", *(name if i == index else f"unused{i}" for i, name in ((1, "s"), (2, "s")))]
    y = silenced(
        node("Transpose", "h", "t", perm=[0, 2, 3, 1]),
        node("LayerNormalization", "t scale shift", " ".join(outputs), axis=-1, epsilon=0.5),
        node("MatMul", "n v", "z"),
        node("Mul", "z s", "y"),
        scale=np.ones(5, np.float32),
        shift=np.zeros(5, np.float32),
        v=(v := normal(5, 2)),
    )
    t = hidden(X).transpose(0, 2, 3, 1).astype(np.float64)
    mean, deviation = t.mean(-1, keepdims=True), np.sqrt(t.var(-1, keepdims=True) + 0.5)
    expected = (t - mean) / deviation @ v[KEEP] * (mean if index == 1 else 1 / deviation)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("epsilon", [None, 0.3])
def test_skip_normalization_has_an_epsilon_of_its_own(epsilon: float | None) -> None:
    """Where the node says none, it is 1e-12, not that of other normalizations."""
    nodes = [node("MatMul", "x w", "h"), node("SkipLayerNormalization", "h h scale shift", "n")]
    nodes[1].domain = "com.microsoft"
    if epsilon is not None:
        nodes[1].attribute.append(onnx.helper.make_attribute("epsilon", epsilon))
    v, scale = normal(5, 2), normal(5)
    w = normal(4, 5) * np.float32(1e-3)  # so small that epsilon counts
    weights = {"w": w, "scale": scale, "shift": np.zeros(5, np.float32), "v": v}
    proto = model([*nodes, node("MatMul", "n v", "y")], weights, x=("N", 4))
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    coupling = found(proto)
    (group,) = (group for group in coupling.groups if group.n == 5)
    x = normal(3, 4)
    t = 2 * (x @ w)[:, KEEP].astype(np.float64)
    n = (t - t.mean(-1, keepdims=True)) / np.sqrt(t.var(-1, keepdims=True) + (epsilon or 1e-12))
    y = run(silence(coupling.model, {group.id: KEEP}, coupling), x)
    np.testing.assert_allclose(y, n * scale[KEEP] @ v[KEEP], rtol=1e-3, atol=1e-4)
