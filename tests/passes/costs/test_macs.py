from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from channel_graphs import found, model, node, normal
from integer_operators import CASES, Case, graph

from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.costs.macs import MacCounter, count_macs, in_integers, macs_per_node


@pytest.mark.parametrize(
    ("text", "weights", "macs"),
    [
        (
            "(float[N,3,8,8] x) => (float[N,6,h,w] y) { y = Conv <strides = [2, 2]> (x, w) }",
            (6, 3, 3, 3),
            6 * 9 * 27,
        ),
        ("(float[1,4,9] x) => (float[1,6,l] y) { y = Conv <group = 2> (x, w) }", (6, 2, 3), 6 * 7 * 6),
        (
            "(float[2,4,9] x) => (float[2,6,l] y) { y = ConvTranspose <group = 2> (x, w) }",
            (4, 3, 3),
            2 * 4 * 9 * 9,
        ),
        ("(float[N,4] x) => (float[N,5] y) { y = Gemm <transB = 1> (x, w) }", (5, 4), 20),
        ("(float[4,7] x) => (float[7,5] y) { y = Gemm <transA = 1> (x, w) }", (4, 5), 140),
        ("(float[4,7] x) => (float[5,7] y) { y = Gemm <transA = 1> (w, x) }", (4, 5), 140),
        ("(float[N,7,4] x) => (float[N,7,5] y) { y = MatMul(x, w) }", (4, 5), 140),
        ("(float[4] x) => (float[5] y) { y = MatMul(x, w) }", (4, 5), 20),
        ("(float[3,1,7,4] x) => (float[3,2,7,5] y) { y = MatMul(x, w) }", (2, 4, 5), 3 * 2 * 140),
        (
            "(float[S,2,4] x) => (float[S,1,2,6] y) { y = RNN <hidden_size = 6> (x, w, r) }",
            (1, 6, 4),
            2 * 6 * 10,
        ),
        ("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }", (1,), 0),
    ],
)
def test_counts(make_model, text, weights, macs):
    arrays = {"w": np.ones(weights, np.float32), "r": np.ones((1, 6, 6), np.float32)}
    model = canonicalize(make_model("g " + text, arrays))
    assert count_macs(model) == macs


def test_products_of_activations_count(make_model):
    model = canonicalize(
        make_model(
            "g (float[N,2,5,4] q) => (float[N,2,5,5] y) { t = Transpose <perm = [0, 1, 3, 2]> (q) "
            "[scores] y = MatMul(q, t) }"
        )
    )
    assert macs_per_node(model) == {"scores": 2 * 5 * 4 * 5}


def test_measured_shapes_replace_unknown_ones(make_model):
    model = canonicalize(
        make_model(
            "g (float[N,4] x, int64[2] s) => (float[a,5] y) { h = Reshape(x, s) [product] y = MatMul(h, w) }",
            {"w": np.ones((4, 5), np.float32)},
        )
    )
    assert count_macs(model) == 20
    assert count_macs(model, {"h": (7, 4)}) == 140
    assert count_macs(model) == 20


def test_macs_of_a_selection_are_those_of_the_smaller_model() -> None:
    nodes = [node("Conv", "x a", "s"), node("Conv", "s b", "t"), node("Conv", "t c", "y")]
    kernels = {"a": normal(6, 3, 1, 1), "b": normal(8, 6, 3, 3), "c": normal(2, 8, 1, 1)}
    coupling = found(model(nodes, kernels, x=(1, 3, 5, 5)))
    keep = {0: np.arange(6) < 2, 1: np.arange(8) < 5}
    counter = MacCounter(coupling.model.graph)
    small = coupling.model.clone()
    RemoveChannels(keep).call(small)
    assert counter(coupling.shapes(keep, counter.values)) == count_macs(small)
    assert counter(coupling.shapes({})) == count_macs(coupling.model)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_runs_in_integers(case: Case) -> None:
    """Opened or not: both factors are made of integers."""
    plain = ir.from_proto(graph(case))
    for form in (plain, canonicalize(plain)):
        (layer,) = [node for node in form.graph if node.name == "layer"]
        assert in_integers(layer)
        assert [in_integers(node) for node in form.graph].count(True) == 1


def test_integer_weights_alone_are_no_integer_products() -> None:
    nodes = [node("DequantizeLinear", "q s", "w"), node("Conv", "x w", "y")]
    weights = {"q": np.ones((2, 3, 1, 1), np.int8), "s": np.float32(0.1)}
    assert not any(map(in_integers, canonicalize(ir.from_proto(model(nodes, weights))).graph))
