"""Heads of queries that share keys and values, written out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.ops.vjp.attention import (
    Inputs,
    apart_heads,
    attend,
    band_of,
    behind,
    given_inputs,
    joined_heads,
    pieces_of,
    places_of,
    repeated_heads,
    rotated_pairs,
)
from obs_onnx.passes.ops.vjp.normalization import over_root_mean_square
from obs_onnx.passes.traits.composite import composite
from obs_onnx.passes.traits.vjp import Vjp

__all__ = ["RULES"]

_NAMED = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 14, 15)  # inputs of GroupQueryAttention that are known here


def _grouped(v: Vjp, inputs: Inputs) -> list[ir.Value | None]:
    """com.microsoft GroupQueryAttention: a text behind a cache that is equally long for all of the batch.

    The lengths of the texts with the cache, less one, say how many keys there are.
    """
    known = [x if place in _NAMED else None for place, x in enumerate(inputs)]
    given_inputs(v, [x for place, x in enumerate(inputs) if place not in _NAMED], 0)
    q, k, values, past_key, past_value, lengths, _, cos, sin, _, bias, sink, _, _, *scales = given_inputs(
        v, known, 16
    )
    assert q is not None
    assert lengths is not None
    count = node_facts.int_attribute(v.node, "num_heads", 1)
    shared = node_facts.int_attribute(v.node, "kv_num_heads", 1)
    if k is None or values is None:
        width = (v.dims(q)[2] or 0) // (count + 2 * shared)
        q, k, values = pieces_of(v, q, [count * width, shared * width, shared * width])
    q, k, values = apart_heads(v, q, count), apart_heads(v, k, shared), apart_heads(v, values, shared)
    q, k = (_normalized(v, x, scale) for x, scale in zip((q, k), scales, strict=True))
    if node_facts.int_attribute(v.node, "do_rotary"):
        places = places_of(v, q, past_key)
        angles = [None if x is None else v.op("Gather", x, places, axis=0) for x in (cos, sin)]
        turn = bool(node_facts.int_attribute(v.node, "rotary_interleaved"))
        q, k = (rotated_pairs(v, x, angles[0], angles[1], turn) for x in (q, k))
    width = v.dims(q)[3] or 0
    k, values = behind(v, past_key, k), behind(v, past_value, values)
    k, values = (repeated_heads(v, x, count // shared) for x in (k, values))
    scale = node_facts.float_attribute(v.node, "scale", 0.0) or 1 / math.sqrt(width)
    softcap = node_facts.float_attribute(v.node, "softcap", 0.0)
    last = v.reshape(v.op("Cast", lengths, to=int(ir.DataType.INT64)), [-1, 1, 1, 1])
    seen = v.op("Not", v.op("Greater", places_of(v, k), last))
    window = node_facts.int_attribute(v.node, "local_window_size", -1)
    causal = bool(node_facts.int_attribute(v.node, "causal", 1))
    band = band_of(v, q, k, window - 1 if window > 0 else -1, -1, causal, past_key)
    masks = [] if bias is None else [bias]
    return [
        joined_heads(v, attend(v, q, k, values, scale, masks, softcap, [*band, seen], _sinks(v, q, sink)))
    ]


def _sinks(v: Vjp, q: ir.Value, sink: ir.Value | None) -> ir.Value | None:
    """Scores of nothing (1, H or 1, 1, 1): a number for each head, or 0 in a smooth softmax."""
    if sink is not None:
        return v.reshape(sink, [1, -1, 1, 1])
    smooth = node_facts.int_attribute(v.node, "smooth_softmax", -1) > 0
    return v.constant(np.zeros((1, 1, 1, 1)), q) if smooth else None


def _normalized(v: Vjp, x: ir.Value, scale: ir.Value | None) -> ir.Value:
    """Each head (B, H, T, W) over the root of the mean of its squares."""
    if scale is None:
        return x
    epsilon = node_facts.float_attribute(v.node, "qk_norm_epsilon", 1e-6)
    return v.mul(over_root_mean_square(v, x, 3, epsilon), scale)


RULES: Mapping[Callable[[Vjp], None], str] = {composite(_grouped): "com.microsoft::GroupQueryAttention"}
