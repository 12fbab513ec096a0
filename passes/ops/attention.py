"""Fused attention operators; their projections hold weights that stay as they are.

An axis of queries, keys or values is (head, width of the head). A head goes from all of them; a width goes
from queries and keys alike, or from the values alone. The scale stays that of the dense width. Tokens of
keys and values stay, because a softmax runs over them; those of queries may go where nothing counts them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.ops.quantized.counterpart import counterpart
from obs_onnx.passes.ops.vjp.attention import RULES
from obs_onnx.passes.ops.vjp.fused.gates import ROTATION_RULES
from obs_onnx.passes.traits.atoms import Labels, fixed, joined, product
from obs_onnx.passes.traits.lipschitz import pointwise
from obs_onnx.passes.traits.op import Op, differentiable, related
from obs_onnx.passes.traits.relation import Freeze, Operand, Relation
from obs_onnx.passes.traits.shrink import Shrink

__all__ = [
    "BUFFERED",
    "COUNTED",
    "ROTATED",
    "TABLE",
    "WEIGHED",
    "keep_scale",
    "macs_products",
    "relate_fused",
    "relate_heads",
    "tie_heads",
    "tie_mask",
    "with_weights",
]


def with_weights(node: ir.Node) -> str | None:
    """Why weights of the operator itself are left alone, where it holds some."""
    held = node_facts.constant(node, 1)
    return f"{node.op_type} is not pruned; export without runtime fusions" if held is not None else None


WEIGHED = "a softmax over its keys weighs every element against the others"
_MASKED = "a mask has a row for each of its elements"
COUNTED = "it counts tokens from the first one on"
ROTATED = "it rotates pairs of widths"
BUFFERED = "it writes into a buffer"


def _dims(node: ir.Node, index: int) -> list[int]:
    return [dim or 1 for dim in node_facts.dims(node_facts.input_of(node, index)) or ()]


def _macs_packed(node: ir.Node) -> int:
    """The projection, and two products of tokens with tokens."""
    x, weight = _dims(node, 0), _dims(node, 1)
    sizes = node_facts.ints_attribute(node, "qkv_hidden_sizes") or (weight[1] // 3,) * 3
    return x[0] * x[1] * (x[2] * weight[1] + x[1] * (sizes[0] + sizes[2]))


def macs_products(node: ir.Node) -> int:
    """Every query meets every key, and every weight every value."""
    query, key = _dims(node, 0), _dims(node, 1)
    if len(query) != len(key) or not key:
        return 0
    tokens = key[-2]
    value = _dims(node, 2) or key
    heads = query[1] if len(query) == 4 else 1
    width = value[-1] if heads > 1 or len(query) == 4 else query[-1] * value[-1] // max(1, key[-1])
    return math.prod(query) * tokens + query[0] * heads * query[-2] * tokens * width


def relate_fused(r: Relation) -> None:
    """com.microsoft Attention: weights (input, queries + keys + values) and their bias are inputs.

    Past keys and values are one array (2, batch, heads, tokens, width), and so are the present ones.
    """
    x, weight, heads = r.axes(0), r.axes(1), r.integer("num_heads", 1)
    sizes = r.integers("qkv_hidden_sizes") or (len(weight[1]) // 3,) * 3
    r.tie(x[2], weight[0])
    r.fix(x[1], WEIGHED)
    pieces = np.split(weight[1], np.cumsum(sizes)[:-1])
    parts = [r.atoms.split(piece, [heads, len(piece) // heads]) for piece in pieces]
    for part in parts[1:]:
        r.tie(parts[0][0], part[0])
    for part in parts[1:2] if r.integers("qkv_hidden_sizes") and not r.has(4) else parts[1:]:
        r.tie(parts[0][1], part[1])
    if r.integer("do_rotary"):
        r.fix(parts[0][1], ROTATED)
    if r.has(6):
        r.fix([part[1] for part in parts], BUFFERED)
    if r.has(2):
        r.tie(r.axes(2)[0], weight[1])
        r.mix(2, 0)
    if r.has(3):
        r.fix([x[0], *r.axes(3)], _MASKED)
    if r.has(4):
        both, *past = r.axes(4)
        r.fix([both, past[2]], WEIGHED)
        for ours, theirs in zip((x[0], *parts[1]), (past[0], past[1], past[3]), strict=True):
            r.tie(ours, theirs)
    if r.has(5):
        tie_mask(r, 5, x[0], parts[0][0], x[1])
    r.mix(1, 0)
    r.mix(1, 1)
    r.give([x[0], x[1], r.atoms.resolve(pieces[2])])
    if r.is_shaped(1):
        head, width = map(r.atoms.resolve, parts[1])
        r.give([fixed(2), x[0], head, fixed(r.shape(1)[3]), width], 1)

    def shrink(s: Shrink) -> None:
        s.attribute("num_heads", s.count(parts[0][0]))
        if r.integers("qkv_hidden_sizes"):
            s.attribute("qkv_hidden_sizes", s.shape(pieces))
        keep_scale(s, parts[0][1])

    r.shrink(shrink)


_relate_quantized = counterpart(
    relate_fused, Operand(0, 3, 6), Operand(1, 4, 7, axes=(1,)), Operand(2), Operand(5), Operand(8)
)


def keep_scale(s: Shrink, width: Labels) -> None:
    """Say the scale of the scores that follows from the dense width of a head, where a node does not."""
    if s.changed(width) and not s.node.attributes.get_float("scale", 0.0):
        s.attribute("scale", 1 / math.sqrt(len(width)))


def tie_mask(r: Relation, slot: int, batch: Labels, head: Labels, tokens: Labels) -> None:
    """What is added to the scores: (batch, heads, queries, keys), any of the first two of one element."""
    mask = r.axes(slot)
    r.fix(mask[-1], WEIGHED)
    r.broadcast([[batch, head, tokens], mask[:-1]])


def relate_heads(r: Relation) -> None:
    """com.microsoft MultiHeadAttention, whose inputs have one of several forms.

    Queries, keys and values are (batch, tokens, heads * width) each; keys and values may be (batch, heads,
    tokens, width), or one array (batch, tokens, heads, 2, width); or all are one of (batch, tokens, heads, 3,
    width), or (batch, tokens, queries + keys + values).
    """
    if r.used(3):
        raise Freeze("its scores are an output")
    places, parts = _many(r)
    batch, tokens, _ = _tie_batch(r, *places)
    if r.integer("unidirectional"):
        r.fix(tokens, COUNTED)
    tie_heads(r, parts)
    if r.has(8) or r.has(9):
        r.fix([batch, *(part[1] for part in parts)], BUFFERED)
    if r.has(3):
        r.tie(r.axes(3)[0], joined([r.atoms.resolve(product(part)) for part in parts]))
        r.mix(3, 0)
    if r.has(4):
        r.fix([batch, *r.axes(4)], _MASKED)
    if r.has(5):
        tie_mask(r, 5, batch, parts[0][0], tokens)
    _tie_past(r, (6, 7), batch, parts)
    if r.has(7):
        r.tie(parts[0][1], parts[2][1])
    r.mix(0, -1)
    batch, tokens = map(r.atoms.resolve, (batch, tokens))
    r.give([batch, tokens, r.atoms.resolve(product([parts[0][0], parts[2][1]]))])
    _give_present(r, batch, parts)

    def shrink(s: Shrink) -> None:
        s.attribute("num_heads", s.count(parts[0][0]))
        keep_scale(s, parts[0][1])

    r.shrink(shrink)


def _many(r: Relation) -> tuple[list[list[Labels]], list[list[Labels]]]:
    """(batch, tokens) and (head, width) of queries, keys and values of MultiHeadAttention."""
    heads, places, parts = r.integer("num_heads", 1), [], []
    for slot in (slot for slot in range(3) if r.has(slot)):
        x = r.axes(slot)
        if len(x) == 5:
            r.fix(x[3])
            again = 3 if slot == 0 else 2
            places += [x[:2]] * again
            parts += [[x[2], x[4]]] * again
        elif slot == 0 and not r.has(1):
            places += [x[:2]] * 3
            parts += [r.atoms.split(piece, [heads, len(piece) // heads]) for piece in np.split(x[2], 3)]
        elif len(x) == 4:
            places.append([x[0], x[2]])
            parts.append([x[1], x[3]])
        else:
            places.append(x[:2])
            parts.append(r.atoms.split(x[2], [heads, len(x[2]) // heads]))
    if len(parts) != 3:
        raise Freeze("it is not known how its inputs are packed")
    return places, parts


def _tie_past(r: Relation, slots: Sequence[int], batch: Labels, parts: Sequence[Sequence[Labels]]) -> None:
    """Past keys and values are (batch, heads, tokens, width), as the new ones in ``parts``."""
    for slot, (head, width) in zip(slots, parts[1:], strict=True):
        if r.has(slot):
            past = r.axes(slot)
            r.fix(past[2], WEIGHED)
            for ours, theirs in ((batch, past[0]), (head, past[1]), (width, past[3])):
                r.tie(ours, theirs)


def _give_present(r: Relation, batch: Labels, parts: Sequence[Sequence[Labels]]) -> None:
    """Present keys and values are the past ones with the new ones behind."""
    for index, part in ((1, parts[1]), (2, parts[2])):
        if r.is_shaped(index):
            head, width = map(r.atoms.resolve, part)
            r.give([batch, head, fixed(r.shape(index)[2]), width], index)


def tie_heads(r: Relation, parts: list[list[Labels]]) -> None:
    """Query heads are (key head, repetition); queries and keys are equally wide."""
    (query, query_width), (key, key_width), (value, _) = parts
    r.tie(key, value)
    r.tie(query_width, key_width)
    if len(query) % len(key):
        raise Freeze("its query heads do not share key heads evenly")
    shared, _ = r.atoms.split(query, [len(key), len(query) // len(key)])
    r.tie(shared, key)


def _tie_batch(
    r: Relation, query: Sequence[Labels], key: Sequence[Labels], value: Sequence[Labels]
) -> tuple[Labels, Labels, Labels]:
    """From (batch, tokens) of each: batch, tokens of queries, and those of keys and values, which stay."""
    r.tie(query[0], key[0])
    r.tie(query[0], value[0])
    r.fix([key[1], value[1]], WEIGHED)
    return query[0], query[1], key[1]


def _relate_standard(r: Relation) -> None:
    """Attention of the default domain: (batch, heads, tokens, width), or (batch, tokens, heads * width).

    Past keys and values, and the present ones, are (batch, heads, tokens, width) in any case.
    """
    axes = [r.axes(slot) for slot in range(3)]
    flat = len(axes[0]) == 3
    if flat:
        heads = [r.integer("q_num_heads", 1), *(r.integer("kv_num_heads", 1),) * 2]
        parts = [r.atoms.split(x[2], [n, len(x[2]) // n]) for x, n in zip(axes, heads, strict=True)]
    else:
        parts = [[x[1], x[3]] for x in axes]
    tie_heads(r, parts)
    batch, tokens, _ = _tie_batch(r, *([x[0], x[-2]] for x in axes))
    _tie_past(r, (4, 5), batch, parts)
    if r.has(6):
        r.tie(batch, r.axes(6)[0])
    if r.has(6) or r.has(4) or r.integer("is_causal") or _is_windowed(r):
        r.fix(tokens, COUNTED)
    if r.has(3):
        tie_mask(r, 3, batch, parts[0][0], tokens)
    r.mix(0, 2 if flat else 3)
    batch, tokens, head, width = map(r.atoms.resolve, (batch, tokens, parts[0][0], parts[2][1]))
    r.give([batch, tokens, product([head, width])] if flat else [batch, head, tokens, width])
    _give_present(r, batch, parts)
    if r.used(3):
        r.give([batch, head, tokens, fixed(r.shape(3)[3])], 3)

    def shrink(s: Shrink) -> None:
        if flat:
            s.attribute("q_num_heads", s.count(parts[0][0]))
            s.attribute("kv_num_heads", s.count(parts[1][0]))
        keep_scale(s, parts[0][1])

    r.shrink(shrink)


def _is_windowed(r: Relation) -> bool:
    return any("window" in name for name in r.node.attributes)


def _relate_rotary(r: Relation) -> None:
    """RotaryEmbedding, MRotaryEmbedding: heads pass, widths are rotated in pairs and stay."""
    x, heads = r.axes(0), r.integer("num_heads")
    r.fix([x[0], x[-2]], "its tokens have positions")
    if len(x) == 4:
        r.fix(x[3], ROTATED)
    elif heads:
        head, width = r.atoms.split(x[2], [heads, len(x[2]) // heads])
        r.fix(width, ROTATED)
        r.shrink(lambda s: s.attribute("num_heads", s.count(head)))
    else:
        raise Freeze("the width of its heads is not given")
    r.give([r.atoms.resolve(labels) for labels in x])


_PLAIN = Op(lipschitz=pointwise(None))
_PRODUCTS = Op(macs=macs_products, lipschitz=pointwise(None))
_WITH_WEIGHTS = Op(linear=with_weights, lipschitz=pointwise(None))

_KNOWN = related(
    {
        "Attention": replace(_PRODUCTS, caches=((4, 1), (5, 2))),
        "RotaryEmbedding": _PLAIN,
        "com.microsoft::Attention": Op(
            linear=with_weights, macs=_macs_packed, lipschitz=pointwise(None), caches=((4, 1),)
        ),
        "com.microsoft::QAttention": replace(
            _WITH_WEIGHTS, macs=_macs_packed, caches=((8, 1),), quantizes=True
        ),
        "com.microsoft::LongformerAttention": _WITH_WEIGHTS,
        "com.microsoft::MultiHeadAttention": replace(_PRODUCTS, caches=((6, 1), (7, 2))),
        "com.microsoft::RotaryEmbedding": _PLAIN,
        "com.microsoft::MRotaryEmbedding": _PLAIN,
    },
    {
        _relate_standard: "Attention",
        _relate_rotary: "RotaryEmbedding com.microsoft::RotaryEmbedding com.microsoft::MRotaryEmbedding",
        relate_fused: "com.microsoft::Attention",
        _relate_quantized: "com.microsoft::QAttention",
        relate_heads: "com.microsoft::MultiHeadAttention",
    },
)

TABLE = differentiable(_KNOWN, {**RULES, **ROTATION_RULES})
