"""Attention of runtimes in further forms: tokens of all texts in a row without padding, and one new token.

Heads and widths go as in the forms that :mod:`obs_onnx.passes.ops.attention` knows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from obs_onnx.passes.ops.attention import (
    BUFFERED,
    COUNTED,
    WEIGHED,
    keep_scale,
    macs_products,
    relate_fused,
    relate_heads,
    tie_heads,
    tie_mask,
    with_weights,
)
from obs_onnx.passes.traits.atoms import Labels, joined, product
from obs_onnx.passes.traits.lipschitz import pointwise
from obs_onnx.passes.traits.op import Op, related
from obs_onnx.passes.traits.relation import Freeze, Operand, Relation
from obs_onnx.passes.traits.shrink import Shrink

__all__ = ["TABLE"]

_BIAS = 6  # input that is added to the scores, of queries, keys and values without padding


def _relate_packed(r: Relation) -> None:
    """PackedAttention: tokens (tokens, input), weights (input, queries + keys + values) and their bias."""
    (tokens, width), weight, heads = r.axes(0), r.axes(1), r.integer("num_heads", 1)
    sizes = r.integers("qkv_hidden_sizes") or (len(weight[1]) // 3,) * 3
    r.tie(width, weight[0])
    pieces = np.split(weight[1], np.cumsum(sizes)[:-1])
    parts = [r.atoms.split(piece, [heads, len(piece) // heads]) for piece in pieces]
    if r.has(2):
        r.tie(r.axes(2)[0], weight[1])
        r.mix(2, 0)
    if not r.integers("qkv_hidden_sizes"):
        r.tie(parts[0][1], parts[2][1])
    r.mix(1, 0)
    r.mix(1, 1)
    _attend(r, tokens, parts, 5)

    def shrink(s: Shrink) -> None:
        if r.integers("qkv_hidden_sizes"):
            s.attribute("qkv_hidden_sizes", s.shape(pieces))

    r.shrink(shrink)


def _relate_packed_heads(r: Relation) -> None:
    """PackedMultiHeadAttention: (tokens, heads * width) each, or one array (tokens, heads, 3, width)."""
    query, heads = r.axes(0), r.integer("num_heads", 1)
    if len(query) == 4:
        r.fix(query[2])
        parts = [[query[1], query[3]]] * 3
    elif r.has(1) and r.has(2):
        given = [r.axes(slot) for slot in range(3)]
        r.fix([axes[0] for axes in given[1:]], WEIGHED)
        parts = [r.atoms.split(axes[1], [heads, len(axes[1]) // heads]) for axes in given]
    else:
        raise Freeze("it is not known how its inputs are packed")
    if r.has(3):
        r.tie(r.axes(3)[0], joined([r.atoms.resolve(product(part)) for part in parts]))
        r.mix(3, 0)
    r.mix(0, -1)
    _attend(r, query[0], parts, _BIAS)


def _attend(r: Relation, tokens: Labels, parts: list[list[Labels]], bias: int) -> None:
    """Heads meet, tokens stay; what is added to the scores is the input ``bias``."""
    tie_heads(r, parts)
    r.fix(tokens, COUNTED)
    if r.has(bias):
        added = r.axes(bias)
        r.fix(added[0])
        tie_mask(r, bias, added[0], parts[0][0], added[2])
        r.fix(added[2], WEIGHED)
    r.give([tokens, r.atoms.resolve(product([parts[0][0], parts[2][1]]))])

    def shrink(s: Shrink) -> None:
        s.attribute("num_heads", s.count(parts[0][0]))
        keep_scale(s, parts[0][1])

    r.shrink(shrink)


def _relate_one_token(r: Relation) -> None:
    """DecoderMaskedMultiHeadAttention: MultiHeadAttention with its inputs in other places."""
    relate_heads(r.among([Operand(slot) for slot in (0, 1, 2, 10, 3, 4, 5, 6, 7, 9)]))


def _relate_one_token_of_self(r: Relation) -> None:
    """DecoderMaskedSelfAttention: Attention, and which of several texts go on."""
    if r.has(8):
        raise Freeze(BUFFERED)
    relate_fused(r)


_PRODUCTS = Op(macs=macs_products, lipschitz=pointwise(None))
_WITH_WEIGHTS = Op(linear=with_weights, lipschitz=pointwise(None))

TABLE = related(
    {
        "com.microsoft::PackedAttention": _WITH_WEIGHTS,
        "com.microsoft::PackedMultiHeadAttention": _PRODUCTS,
        "com.microsoft::DecoderMaskedMultiHeadAttention": replace(_PRODUCTS, caches=((5, 1), (6, 2))),
        "com.microsoft::DecoderMaskedSelfAttention": replace(_WITH_WEIGHTS, caches=((4, 1),)),
    },
    {
        _relate_packed: "com.microsoft::PackedAttention",
        _relate_packed_heads: "com.microsoft::PackedMultiHeadAttention",
        _relate_one_token: "com.microsoft::DecoderMaskedMultiHeadAttention",
        _relate_one_token_of_self: "com.microsoft::DecoderMaskedSelfAttention",
    },
)
