"""Derivatives of heads that share keys and values, against onnxruntime's kernel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from derivatives import against_differences, first_of

from obs_onnx.passes.autodiff.gradient import Gradient
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import GradientError

rng = np.random.default_rng(11)


def normal(*shape):
    return rng.standard_normal(shape)


def lengths(tokens, past=(None, None), batch=2):
    """The cache, and how long the texts of a batch are with it."""
    return [*past, np.full(batch, tokens - 1, np.int32), np.array(tokens, np.int32)]


APART = [normal(2, 3, 32), normal(2, 3, 16), normal(2, 3, 16)]
ALONE = [x[:1] for x in APART]
PAST = normal(2, 2, 4, 16), normal(2, 2, 4, 16)
NARROW = normal(1, 2, 4, 8), normal(1, 2, 4, 8)
EMPTY = np.zeros((2, 2, 0, 16)), np.zeros((2, 2, 0, 16))
TABLES = [normal(9, 8), normal(9, 8)]
ROTATED = {"do_rotary": 1, "scale": 0.5}

CASES = {
    "capped": ([*APART, *lengths(3)], (0, 1, 2), {"softcap": 2.0}),
    "of different lengths": (
        [*APART, None, None, np.array([0, 2], np.int32), *lengths(3)[3:]],
        (0, 1, 2),
        {},
    ),
    "packed and rotated": (
        [normal(2, 3, 128), None, None, *lengths(3), *TABLES],
        (0,),
        {**ROTATED, "rotary_interleaved": 1},
    ),
    "both ways": ([*APART, *lengths(3)], (0, 1, 2), {"causal": 0}),
    "behind a cache": ([*ALONE, *lengths(7, NARROW, 1)], (0, 1, 2, 3, 4), {}),
    "one token behind a cache": (
        [normal(2, 1, 128), None, None, *lengths(5, PAST), *TABLES],
        (0, 3, 4),
        ROTATED,
    ),
    "packed behind an empty cache": (
        [normal(2, 3, 128), None, None, *lengths(3, EMPTY), *TABLES],
        (0,),
        ROTATED,
    ),
    "in a window": ([*ALONE, *lengths(7, NARROW, 1)], (0, 1, 2), {"local_window_size": 2}),
    "with sinks": (
        [*APART, *lengths(3), None, None, None, None, normal(4)],
        (0, 1, 2, 11),
        {},
    ),
    "in a smooth softmax": ([*APART, *lengths(3)], (0, 1, 2), {"smooth_softmax": 1}),
    "with a bias": (
        [*APART, *lengths(3), None, None, None, normal(2, 4, 3, 3)],
        (0, 1, 2),
        {},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gradient_on_onnxruntime(name):
    inputs, wrt, attributes = CASES[name]
    batch, tokens, width = inputs[0].shape
    proto = first_of(
        "GroupQueryAttention",
        inputs,
        wrt,
        (batch, tokens, width if inputs[1] is not None else width // 2),
        ("y0", "present_key", "present_value"),
        num_heads=4,
        kv_num_heads=2,
        **attributes,
    )
    against_differences(proto, inputs, wrt)


def test_what_is_not_known_is_an_error():
    inputs = [*APART, *lengths(3), None, None, np.zeros((2, 3), np.int64)]
    counts = {"num_heads": 4, "kv_num_heads": 2}
    proto = first_of("GroupQueryAttention", inputs, (0,), (2, 3, 32), **counts)
    with pytest.raises(GradientError, match="an input that is not known here"):
        Gradient("loss", ["x0"]).call(canonicalize(ir.from_proto(proto)))
