"""Shapes of attention operators and their caches, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from runtime_shapes import assert_same_shapes

from obs_onnx.passes.shapes.contrib_attention import ATTENTION

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def counts(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


X, CACHE = normal(2, 5, 8), normal(2, 2, 3, 4)
ONE = normal(2, 1, 8)
SHARED = {"num_heads": 4, "kv_num_heads": 2}
FIVE, SEVEN = (counts(4, 4), np.array(5, np.int32)), (counts(6, 6), np.array(7, np.int32))
PROMPT, PAST = [None, None, None, None, *FIVE], normal(2, 2, 6, 8)
TWO, STATE = {"q_num_heads": 2, "kv_num_heads": 2}, normal(2, 4, 6, 4)
LINEAR = [normal(2, 5, 8), normal(2, 5, 8), normal(2, 5, 12)]
GATES = [normal(2, 5, 2), normal(2, 5, 2)]
BYTES = [np.ones((2, 5, 8), np.uint8), np.ones((8, 24), np.uint8), normal(24)]
STEP, ZERO = np.array(0.1, np.float32), np.array(0, np.uint8)

CASES = [
    ("Attention", [X, normal(8, 24), normal(24)], 1, {"num_heads": 2}),
    ("Attention", [X, normal(8, 24), normal(24), None, normal(2, 2, 2, 3, 4)], 2, {"num_heads": 2}),
    ("Attention", [X, normal(8, 20), normal(20)], 1, {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 4]}),
    ("QAttention", [*BYTES, STEP, STEP, None, ZERO, ZERO], 1, {"num_heads": 2}),
    ("MultiHeadAttention", [X, normal(2, 7, 8), normal(2, 7, 6)], 1, {"num_heads": 2}),
    ("MultiHeadAttention", [X, normal(2, 2, 7, 4), normal(2, 2, 7, 4)], 1, {"num_heads": 2}),
    ("MultiHeadAttention", [X, X, X, None, None, None, CACHE, CACHE], 3, {"num_heads": 2}),
    ("MultiHeadAttention", [X, X, X], 4, {"num_heads": 2}),
    (
        "DecoderMaskedMultiHeadAttention",
        [ONE, ONE, ONE, None, None, CACHE, CACHE, counts(2)],
        3,
        {"num_heads": 2, "past_present_share_buffer": 1},
    ),
    ("DecoderMaskedMultiHeadAttention", [ONE, CACHE, CACHE], 1, {"num_heads": 2}),
    (
        "GroupQueryAttention",
        [normal(2, 5, 32), normal(2, 5, 16), normal(2, 5, 16), None, None, *FIVE],
        3,
        SHARED,
    ),
    ("GroupQueryAttention", [normal(2, 5, 64), *PROMPT], 3, SHARED),
    (
        "GroupQueryAttention",
        [normal(2, 5, 128), *PROMPT, normal(16, 8), normal(16, 8)],
        3,
        {**SHARED, "do_rotary": 1},
    ),
    (
        "GroupQueryAttention",
        [normal(2, 5, 64), *PROMPT],
        4,
        {**SHARED, "qk_output": 1, "data": [(3, 3)]},
    ),
    (
        "GroupQueryAttention",
        [normal(2, 1, 64), None, None, PAST, PAST, *SEVEN],
        3,
        {**SHARED, "data": [(1, 2), (2, 2)]},
    ),
    ("LinearAttention", [*LINEAR, normal(2, 2, 4, 6), *GATES], 2, TWO),
    ("LinearAttention", [*LINEAR, None, *GATES], 2, TWO),
    (
        "GatedDeltaNet",
        [normal(10, 2, 4), normal(10, 2, 4), normal(10, 4, 6), None, normal(10, 4), normal(10, 4), STATE],
        2,
        {},
    ),
    (
        "GatedDeltaNet",
        [normal(2, 5, 2, 4), normal(2, 5, 2, 4), normal(2, 5, 4, 6), None, *[normal(2, 5, 4)] * 2, STATE],
        2,
        {},
    ),
    (
        "GatedDeltaNet",
        [normal(10, 40), None, None, None, normal(10, 4), normal(10, 4), STATE],
        2,
        {},
    ),
    ("CausalConvWithState", [normal(2, 6, 9), normal(6, 1, 4), normal(6)], 2, {}),
    ("CausalConvWithState", [normal(2, 6, 9), normal(6, 1, 4), normal(6), normal(2, 6, 3)], 2, {}),
    ("CausalConvWithState", [normal(2, 9, 6), normal(6, 1, 4)], 2, {"channels_last": 1}),
    ("CausalConvWithState", [normal(2, 6, 9), normal(6, 1, 4)], 2, {"dilation": 2}),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{name}-{number}" for number, (name, *_) in enumerate(CASES)])
def test_shapes_are_those_of_onnxruntime(case) -> None:
    op_type, inputs, outputs, attributes = case
    assert_same_shapes(op_type, inputs, outputs, **attributes)


BLOCKS = (9, 16, 2, 8)
DESCRIBED = [  # what the schemas say of forms that have no kernel for a CPU
    ("MultiHeadAttention", {"num_heads": 2}, [(2, 5, 2, 3, 4)], [(2, 5, 8)]),
    ("MultiHeadAttention", {"num_heads": 2}, [(2, 5, 8), (2, 7, 2, 2, 4)], [(2, 5, 8)]),
    ("PackedAttention", {"num_heads": 2}, [(10, 8), (8, 24), (24,), (2, 5), (3,)], [(10, 8)]),
    ("PackedMultiHeadAttention", {}, [(10, 2, 3, 4), None, None, None, (2, 5), (3,)], [(10, 8)]),
    ("PackedMultiHeadAttention", {}, [(10, 8), (10, 8), (10, 6), None, (2, 5), (3,)], [(10, 6)]),
    (
        "DecoderMaskedSelfAttention",
        {"num_heads": 2, "past_present_share_buffer": 1},
        [(2, 1, 8), (8, 24), (24,), None, (2, 2, 2, 16, 4)],
        [(2, 1, 8), (2, 2, 2, 16, 4)],
    ),
    (
        "DecoderMaskedMultiHeadAttention",
        {"num_heads": 2},
        [(2, 1, 24), None, None, None, None, (2, 2, 3, 4), (2, 2, 3, 4)],
        [(2, 1, 8), (2, 2, 4, 4), (2, 2, 4, 4)],
    ),
    ("SparseAttention", SHARED, [(2, 5, 64), None, None, *[(2, 2, 16, 8)] * 2], [(2, 5, 32)]),
    ("PagedAttention", SHARED, [(10, 64), None, None, BLOCKS, BLOCKS], [(10, 32), BLOCKS, BLOCKS]),
    ("PagedAttention", {**SHARED, "v_head_size": 6}, [(10, 32), (10, 16), None, BLOCKS], [(10, 24), BLOCKS]),
    ("SparsePagedAttention", SHARED, [(10, 32), (10, 16), (10, 16), BLOCKS, BLOCKS], [(10, 32)]),
]


@pytest.mark.parametrize(("op_type", "attributes", "inputs", "expected"), DESCRIBED)
def test_shapes_are_those_of_the_schema(op_type: str, attributes, inputs, expected) -> None:
    node = ir.node(op_type, [], attributes, domain="com.microsoft")
    found = ATTENTION[f"com.microsoft::{op_type}"](node, inputs)
    assert found[: len(expected)] == expected


def test_a_cache_that_is_written_in_place_keeps_its_size() -> None:
    node = ir.node("MultiHeadAttention", [], {"num_heads": 2})
    x, cache = (2, 5, 8), (2, 2, 16, 4)
    given = [x, x, x, None, None, None, cache, cache, (1,)]
    assert ATTENTION["com.microsoft::MultiHeadAttention"](node, given) == [x, cache, cache, (2, 2, 5, None)]


def test_every_rule_has_a_case() -> None:
    tried = {f"com.microsoft::{name}" for name, *_ in (*CASES, *DESCRIBED)}
    assert tried == {*ATTENTION}
