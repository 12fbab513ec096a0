"""Fused attention written out, which is how it is differentiated.

``softmax(scale Q K^T + masks) V`` for each head, with arrays of shape (batch, heads, tokens, width). Heads of
keys and values that are shared by several heads of queries are repeated. Rotary embeddings (Su et al.,
RoFormer, 2021) turn pairs of widths by angles that grow with the place in the text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.traits.composite import composite
from obs_onnx.passes.traits.vjp import Vjp

__all__ = [
    "RULES",
    "Inputs",
    "apart_heads",
    "attend",
    "band_of",
    "behind",
    "given_inputs",
    "joined_heads",
    "pieces_of",
    "places_of",
    "refuse_packed",
    "repeated_heads",
    "rotated_pairs",
    "turned",
]

Inputs = Sequence[ir.Value | None]


def apart_heads(v: Vjp, value: ir.Value, count: int) -> ir.Value:
    """(B, T, H * W) as (B, H, T, W)."""
    width = v.dims(value)[2]
    if width is None:
        v.refuse("the width of its heads is unknown")
    return v.transpose(v.reshape(value, [0, 0, count, width // count]), [0, 2, 1, 3])


def joined_heads(v: Vjp, value: ir.Value) -> ir.Value:
    """(B, H, T, W) as (B, T, H * W)."""
    _, heads, _, width = v.dims(value)
    if heads is None or width is None:
        v.refuse("the width of its heads is unknown")
    return v.reshape(v.transpose(value, [0, 2, 1, 3]), [0, 0, heads * width])


def repeated_heads(v: Vjp, value: ir.Value, times: int) -> ir.Value:
    """Each head ``times`` over."""
    if times == 1:
        return value
    _, heads, _, width = v.dims(value)
    if heads is None or width is None:
        v.refuse("the width of its heads is unknown")
    copies = v.op("Concat", *[v.unsqueeze(value, [2])] * times, axis=2)
    return v.reshape(copies, [0, heads * times, -1, width])


def attend(
    v: Vjp,
    q: ir.Value,
    k: ir.Value,
    values: ir.Value,
    scale: float,
    masks: Sequence[ir.Value] = (),
    softcap: float = 0.0,
    seen: Sequence[ir.Value] = (),
    sinks: ir.Value | None = None,
) -> ir.Value:
    """``masks`` are added; each of ``seen`` says what exists. A query that sees nothing yields zeros.

    ``sinks`` (B or 1, H or 1, 1 or T, 1) are scores of what takes a part of the softmax, and is nothing.
    """
    scores = v.mul(v.op("MatMul", q, v.transpose(k, [0, 1, 3, 2])), scale)
    if softcap:
        scores = v.mul(v.op("Tanh", v.div(scores, softcap)), softcap)
    for mask in masks:
        scores = v.add(scores, mask)
    if not seen:
        return v.op("MatMul", _softmax(v, scores, sinks), values)
    all_seen = seen[0]
    for other in seen[1:]:
        all_seen = v.op("And", all_seen, other)
    lowest = -1e4 if scores.dtype == ir.DataType.FLOAT16 else -1e30
    share = _softmax(v, v.where(all_seen, scores, lowest), sinks)
    return v.op("MatMul", v.where(all_seen, share, 0.0), values)


def _softmax(v: Vjp, scores: ir.Value, sinks: ir.Value | None) -> ir.Value:
    if sinks is None:
        return v.op("Softmax", scores, axis=-1)
    none = v.mul(v.slice(scores, [0], [1], [3]), 0.0)
    share = v.op("Softmax", v.op("Concat", scores, v.add(none, sinks), axis=3), axis=-1)
    return v.shaped(v.slice(share, [0], [-1], [3]), scores)


def band_of(
    v: Vjp,
    q: ir.Value,
    k: ir.Value,
    left: int,
    right: int,
    causal: bool,
    past: ir.Value | None = None,
) -> list[ir.Value]:
    """Which keys (axis 1) a query (axis 0) may see; -1 leaves a side open, ``causal`` hides what is ahead.

    ``past`` are the keys that stand before the first query.
    """
    right = 0 if causal else right
    ahead = v.sub(v.unsqueeze(places_of(v, k), [0]), v.unsqueeze(places_of(v, q, past), [1]))
    found = [v.op("Not", v.op("Greater", ahead, right))] if right >= 0 else []
    return found + ([v.op("Not", v.op("Less", ahead, -left))] if left >= 0 else [])


def _mask(v: Vjp, mask: ir.Value, keys: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
    """What a mask adds, and what it says to exist: truth values, or all but minus infinity."""
    length, whole = v.dims(mask)[-1], v.dims(keys)[2]
    truths = mask.dtype == ir.DataType.BOOL
    if length is not None and whole is not None and length < whole:  # keys that it does not name are hidden
        shape = [*(1 for _ in v.dims(mask)[:-1]), whole - length]
        fill = v.constant(np.full(shape, False) if truths else np.full(shape, -np.inf), mask)
        lead = v.slice(v.shape_of(mask), [0], [-1], [0])
        fill = v.op("Expand", fill, v.op("Concat", lead, v.ints([whole - length]), axis=0))
        mask = v.op("Concat", mask, fill, axis=v.rank(mask) - 1)
    if truths:
        return [], [mask]
    exists = v.op("Greater", mask, -np.inf)
    return [v.where(exists, mask, 0.0)], [exists]


def _padding(v: Vjp, mask: ir.Value, like: ir.Value) -> ir.Value:
    """(B, S) of ones and zeros as a mask to add to (B, H, T, S)."""
    if v.rank(mask) != 2:
        v.refuse("its mask is no matrix of ones and zeros")
    value = node_facts.float_attribute(v.node, "mask_filter_value", -10000.0)
    return v.unsqueeze(v.mul(v.sub(1.0, v.cast(mask, like)), value), [1, 2])


def pieces_of(v: Vjp, value: ir.Value, sizes: Sequence[int]) -> list[ir.Value]:
    """Pieces of the last axis."""
    ends, axis = [sum(sizes[: i + 1]) for i in range(len(sizes))], v.rank(value) - 1
    return [v.slice(value, [end - n], [end], [axis]) for end, n in zip(ends, sizes, strict=True)]


def given_inputs(v: Vjp, inputs: Inputs, used: int) -> list[ir.Value | None]:
    """The first ``used`` inputs, None where absent; there must be no other."""
    if any(x is not None for x in inputs[used:]):
        v.refuse("it keeps a state, or has an input that is not known here")
    return [*inputs, *[None] * used][:used]


def _standard(v: Vjp, inputs: Inputs) -> list[ir.Value | None]:
    """Attention of the default domain."""
    q, k, values, mask, past_key, past_value = given_inputs(v, inputs, 6)
    assert q is not None
    assert k is not None
    assert values is not None
    softcap = node_facts.float_attribute(v.node, "softcap", 0.0)
    if softcap and mask is not None and v.opset < _ORDER_IS_FIXED:
        v.refuse("it has both a mask and a soft cap, whose order changed between opsets")
    flat = v.rank(q) == 3
    if flat:
        shared = node_facts.int_attribute(v.node, "kv_num_heads", 1)
        q = apart_heads(v, q, node_facts.int_attribute(v.node, "q_num_heads", 1))
        k, values = apart_heads(v, k, shared), apart_heads(v, values, shared)
    heads, shared_heads, width = v.dims(q)[1], v.dims(k)[1], v.dims(q)[3]
    if heads is None or shared_heads is None or width is None:
        v.refuse("the number or width of its heads is unknown")
    k, values = behind(v, past_key, k), behind(v, past_value, values)
    k, values = (repeated_heads(v, x, heads // shared_heads) for x in (k, values))
    scale = node_facts.float_attribute(v.node, "scale", 1 / math.sqrt(width))
    left, right = (node_facts.int_attribute(v.node, f"{side}_window_size", -1) for side in ("left", "right"))
    band = band_of(v, q, k, left, right, bool(node_facts.int_attribute(v.node, "is_causal")), past_key)
    masks, seen = ([], []) if mask is None else _mask(v, mask, k)
    y = attend(v, q, k, values, scale, masks, softcap, [*band, *seen])
    return [joined_heads(v, y) if flat else y]


_ORDER_IS_FIXED = 25  # opset from which every runtime applies the soft cap before it adds the mask


def _multi_head(v: Vjp, inputs: Inputs) -> list[ir.Value | None]:
    """com.microsoft MultiHeadAttention: queries, keys and values of shape (batch, tokens, heads * width)."""
    q, k, values, bias, padding, mask, *pasts = given_inputs(v, inputs, 8)
    if q is None or k is None or values is None or {v.rank(q), v.rank(k), v.rank(values)} != {3}:
        v.refuse("its inputs are packed")
    if bias is not None:
        sizes = [v.dims(x)[2] or 0 for x in (q, k, values)]
        b_q, b_k, b_v = pieces_of(v, bias, sizes)
        q, k, values = v.add(q, b_q), v.add(k, b_k), v.add(values, b_v)
    return [_fused(v, q, k, values, padding, mask, pasts)]


def _packed(v: Vjp, inputs: Inputs) -> list[ir.Value | None]:
    """com.microsoft Attention: the projections to queries, keys and values are part of it."""
    x, weight, bias, padding, past, mask = given_inputs(v, inputs, 6)
    if past is not None or node_facts.int_attribute(v.node, "do_rotary"):
        v.refuse("it keeps a state or rotates")
    assert x is not None
    assert weight is not None
    width = v.dims(weight)[1] or 0
    sizes = node_facts.ints_attribute(v.node, "qkv_hidden_sizes") or (width // 3,) * 3
    projected = v.op("MatMul", x, weight)
    if bias is not None:
        projected = v.add(projected, bias)
    q, k, values = pieces_of(v, projected, sizes)
    return [_fused(v, q, k, values, padding, mask)]


def _fused(
    v: Vjp,
    q: ir.Value,
    k: ir.Value,
    values: ir.Value,
    padding: ir.Value | None,
    mask: ir.Value | None,
    pasts: Inputs = (None, None),
) -> ir.Value:
    count = node_facts.int_attribute(v.node, "num_heads", 1)
    q, k, values = (apart_heads(v, x, count) for x in (q, k, values))
    k, values = behind(v, pasts[0], k), behind(v, pasts[1], values)
    width = v.dims(q)[3]
    assert width is not None
    scale = node_facts.float_attribute(v.node, "scale", 0.0) or 1 / math.sqrt(width)
    masks = [] if mask is None else [mask]
    if padding is not None:
        masks.append(_padding(v, padding, q))
    band = band_of(v, q, k, -1, -1, bool(node_facts.int_attribute(v.node, "unidirectional")), pasts[0])
    return joined_heads(v, attend(v, q, k, values, scale, masks, seen=band))


def places_of(v: Vjp, x: ir.Value, past: ir.Value | None = None, axis: int = 2) -> ir.Value:
    """0, 1, 2, ... for the tokens along an axis of ``x``, (B, H, T, W), or on from those of ``past``."""
    length = v.squeeze(v.size_of(x, axis), [0])
    places = v.op("Range", v.constant(np.array(0)), length, v.constant(np.array(1)))
    return places if past is None else v.add(places, v.size_of(past, 2))


def behind(v: Vjp, past: ir.Value | None, x: ir.Value) -> ir.Value:
    """New keys or values (B, H, T, W) behind earlier ones."""
    if past is None:
        return x
    found = v.op("Concat", past, x, axis=2)
    batch, heads, _, width = v.dims(x)
    found.shape = ir.Shape([batch, heads, None, width])
    return found


def rotated_pairs(
    v: Vjp, x: ir.Value, cos: ir.Value | None, sin: ir.Value | None, alternating: bool
) -> ir.Value:
    """Pairs of the first widths of ``x`` (B, H, T, W), turned by angles of shape (T, R) or (B, T, R).

    A pair is (i, R + i), or (2i, 2i + 1) where ``alternating``; widths from 2R on stay.
    """
    if cos is None or sin is None:
        v.refuse("its angles are missing")
    pairs, width = v.dims(cos)[-1], v.dims(x)[3]
    if pairs is None or width is None:
        v.refuse("the width of its heads is unknown")
    cos, sin = (v.unsqueeze(y, [0, 1] if v.rank(y) == 2 else [1]) for y in (cos, sin))
    if alternating:
        a, b = (v.slice(x, [start], [2 * pairs], [3], [2]) for start in (0, 1))
    else:
        a, b = (v.slice(x, [start], [start + pairs], [3]) for start in (0, pairs))
    turned = [v.sub(v.mul(a, cos), v.mul(b, sin)), v.add(v.mul(a, sin), v.mul(b, cos))]
    if alternating:
        stacked = v.op("Concat", *(v.unsqueeze(y, [4]) for y in turned), axis=4)
        turned = [v.reshape(stacked, [0, 0, -1, 2 * pairs])]
    rest = [v.slice(x, [2 * pairs], [None], [3])] if 2 * pairs < width else []
    return v.shaped(v.op("Concat", *turned, *rest, axis=3), x)


def _rotary(v: Vjp, inputs: Inputs) -> list[ir.Value | None]:
    """RotaryEmbedding of the default domain."""
    x, cos, sin, places = given_inputs(v, inputs, 4)
    if places is not None:
        cos, sin = (None if y is None else v.op("Gather", y, places, axis=0) for y in (cos, sin))
    return [turned(v, x, cos, sin, node_facts.int_attribute(v.node, "num_heads"))]


def _rotary_microsoft(v: Vjp, inputs: Inputs) -> list[ir.Value | None]:
    """com.microsoft RotaryEmbedding: one place in the text for each token, or that of the first token."""
    x, places, cos, sin = given_inputs(v, inputs, 4)
    assert x is not None
    assert places is not None
    refuse_packed(v)
    heads, width = node_facts.int_attribute(v.node, "num_heads"), v.dims(x)[-1]
    if v.rank(x) == 3 and not heads:
        if cos is None or width is None or not (pairs := v.dims(cos)[-1]):
            v.refuse("the width of its heads is unknown")
        heads = width // (2 * pairs)
    if v.rank(places) == 1:
        places = v.add(places_of(v, x, axis=v.rank(x) - 2), places)
    cos, sin = (None if y is None else v.op("Gather", y, places, axis=0) for y in (cos, sin))
    return [turned(v, x, cos, sin, heads)]


def refuse_packed(v: Vjp) -> None:
    """Refuse a rotation of texts that lie one behind the other, and of scaled ones."""
    if (
        node_facts.int_attribute(v.node, "is_packed_batching")
        or node_facts.float_attribute(v.node, "scale", 1.0) != 1
    ):
        v.refuse("it packs its batch or scales")


def turned(v: Vjp, x: ir.Value | None, cos: ir.Value | None, sin: ir.Value | None, heads: int) -> ir.Value:
    """Heads, (B, H, T, W) or (B, T, H * W), whose pairs of widths are :func:`rotated_pairs`."""
    assert x is not None
    alternating = bool(node_facts.int_attribute(v.node, "interleaved"))
    if v.rank(x) == 4:
        return rotated_pairs(v, x, cos, sin, alternating)
    if not heads:
        v.refuse("the number of its heads is not given")
    return joined_heads(v, rotated_pairs(v, apart_heads(v, x, heads), cos, sin, alternating))


RULES: Mapping[Callable[[Vjp], None], str] = {
    composite(_standard): "Attention",
    composite(_multi_head): "com.microsoft::MultiHeadAttention",
    composite(_packed): "com.microsoft::Attention",
    composite(_rotary): "RotaryEmbedding",
    composite(_rotary_microsoft): "com.microsoft::RotaryEmbedding",
}
