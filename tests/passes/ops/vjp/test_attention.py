"""Derivatives of fused attention; those of onnxruntime's own operators against its kernels."""

from __future__ import annotations

import numpy as np
import pytest
from derivatives import against_differences, check, operator

from obs_onnx.passes.errors import GradientError

rng = np.random.default_rng(11)


def normal(*shape):
    return rng.standard_normal(shape)


@pytest.mark.parametrize("causal", [0, 1])
def test_behind_a_cache(causal):
    q, k, values = normal(2, 4, 3, 2), normal(2, 2, 3, 2), normal(2, 2, 3, 5)
    past = [normal(2, 2, 4, 2), normal(2, 2, 4, 5)]
    check("Attention", [q, k, values, None, *past], (0, 1, 2, 4, 5), opset=23, is_causal=causal)


@pytest.mark.parametrize("causal", [0, 1])
def test_heads_apart(causal):
    q, k, values = normal(2, 4, 3, 2), normal(2, 2, 3, 2), normal(2, 2, 3, 5)
    check("Attention", [q, k, values], (0, 1, 2), opset=23, is_causal=causal)


def test_heads_together_and_mask():
    q, k, values = normal(2, 3, 4), normal(2, 5, 4), normal(2, 5, 6)
    check(
        "Attention",
        [q, k, values, normal(3, 5)],
        (0, 1, 2, 3),
        opset=23,
        q_num_heads=2,
        kv_num_heads=2,
        scale=0.3,
    )
    seen = np.array([[True, False, True, True, False]])
    check("Attention", [q, k, values, seen], (0, 1, 2), opset=23, q_num_heads=2, kv_num_heads=2)


@pytest.mark.parametrize(
    ("left", "right", "causal"), [(1, -1, 0), (0, 1, 0), (2, -1, 1), (-1, 0, 0), (1, 3, 1), (0, 0, 0)]
)
def test_windows(left, right, causal):
    q, k, values = normal(2, 2, 4, 3), normal(2, 2, 6, 3), normal(2, 2, 6, 3)
    windows = {"left_window_size": left, "right_window_size": right, "is_causal": causal}
    check("Attention", [q, k, values], (0, 1, 2), opset=25, **windows)
    mask = rng.random((4, 6)) < 0.7
    check("Attention", [q, k, values, mask], (0, 1, 2), opset=25, softcap=1.5, **windows)


@pytest.mark.parametrize("opset", [23, 24, 25])
@pytest.mark.parametrize("kind", [bool, float])
@pytest.mark.parametrize("causal", [0, 1])
def test_a_query_that_sees_nothing(opset, kind, causal):
    q, k, values = normal(2, 4, 4), normal(2, 4, 4), normal(2, 4, 6)
    seen = rng.random((4, 4)) < 0.6
    seen[1], seen[2, 3:] = False, True
    mask = seen if kind is bool else np.where(seen, normal(4, 4), -np.inf)
    options = {"q_num_heads": 2, "kv_num_heads": 2, "is_causal": causal}
    check("Attention", [q, k, values, mask], (0, 1, 2), opset=opset, **options)


def test_a_mask_of_fewer_keys_hides_the_others():
    q, k, values = normal(2, 2, 4, 3), normal(2, 2, 6, 3), normal(2, 2, 6, 3)
    check("Attention", [q, k, values, np.ones((4, 5), bool)], (0, 1, 2), opset=25)
    check("Attention", [q, k, values, normal(2, 1, 4, 4)], (0, 1, 2, 3), opset=25)
    check("Attention", [q, k, values, np.ones((4, 1), bool)], (0, 1, 2), opset=25)


def test_a_scale_of_zero_is_zero():
    q, k, values = normal(2, 2, 4, 3), normal(2, 2, 6, 3), normal(2, 2, 6, 3)
    check("Attention", [q, k, values], (2,), opset=25, scale=0.0)


def test_soft_cap_and_mask_are_refused_where_their_order_is_not_sure():
    with pytest.raises(GradientError, match="order changed"):
        check("Attention", [normal(1, 1, 2, 2)] * 3 + [normal(2, 2)], opset=24, softcap=1.0)


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotated(interleaved):
    x, cos, sin, places = normal(2, 3, 4, 6), normal(9, 2), normal(9, 2), rng.integers(0, 9, (2, 4))
    options = {"opset": 23, "interleaved": interleaved, "kind": np.float32}  # it knows no float64
    check("RotaryEmbedding", [x, cos, sin, places], (0, 1, 2), rotary_embedding_dim=4, **options)
    check(
        "RotaryEmbedding",
        [normal(2, 4, 8), normal(2, 4, 2), normal(2, 4, 2)],
        (0, 1, 2),
        num_heads=2,
        **options,
    )


MICROSOFT = {
    "MultiHeadAttention": [normal(2, 3, 4), normal(2, 3, 4), normal(2, 3, 4), normal(12)],
    "Attention": [normal(2, 3, 5), normal(5, 12), normal(12)],
}


def lengths(tokens):
    return [None, None, np.full(2, tokens - 1, np.int32), np.array(tokens, np.int32)]


# operator, inputs, which of them are differentiated, attributes, shape of the first output
MORE = {
    "rotary by places": (
        "RotaryEmbedding",
        [normal(2, 3, 16), rng.integers(0, 9, (2, 3)), normal(9, 4), normal(9, 4)],
        (0,),
        {},
        (2, 3, 16),
    ),
    "rotary by heads": (
        "RotaryEmbedding",
        [normal(2, 4, 3, 8), np.array([2]), normal(9, 4), normal(9, 4)],
        (0,),
        {"interleaved": 1},
        (2, 4, 3, 8),
    ),
    "rotary in part": (
        "RotaryEmbedding",
        [normal(2, 3, 16), np.array([1]), normal(9, 2), normal(9, 2)],
        (0,),
        {"num_heads": 2, "rotary_embedding_dim": 4},
        (2, 3, 16),
    ),
}


@pytest.mark.parametrize("name", MORE)
def test_text_on_onnxruntime(name):
    op_type, inputs, wrt, attributes, shape = MORE[name]
    outputs = ["y0", "present_key", "present_value"] if op_type == "GroupQueryAttention" else ["y0"]
    weights = {name: rng.uniform(0.5, 1.5, shape if name == "y0" else ()) for name in outputs}
    proto = operator(
        op_type, inputs, wrt, weights=weights, outputs=outputs, domain="com.microsoft", kind=np.float32,
        **attributes,
    )  # fmt: skip
    total = next(node for node in proto.graph.node if node.op_type == "Sum")
    total.input[:] = ["y0_sum"]
    kept = [n for n in proto.graph.node if not n.output[0].startswith("present_")]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    del proto.graph.value_info[1:]
    against_differences(proto, inputs, wrt)


@pytest.mark.parametrize("op_type", MICROSOFT)
@pytest.mark.parametrize("unidirectional", [0, 1])
def test_gradient_on_onnxruntime(op_type, unidirectional):
    inputs = MICROSOFT[op_type]
    wrt = list(range(len(inputs)))
    options = {
        "domain": "com.microsoft",
        "num_heads": 2,
        "unidirectional": unidirectional,
        "kind": np.float32,
    }
    proto = operator(op_type, inputs, wrt, weights={"y0": rng.uniform(0.5, 1.5, (2, 3, 4))}, **options)
    against_differences(proto, inputs, wrt)
