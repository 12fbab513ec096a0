"""Attention in which several heads of queries share one of keys and values: widths stay.

Queries, keys and values are (..., heads * width), or one array of all heads in a row. A head of keys goes
with that of values and all heads of queries that share it, and so do its places in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from obs_onnx.passes.ops.attention import COUNTED, ROTATED, macs_products, tie_heads, tie_mask
from obs_onnx.passes.ops.vjp.fused.shared import RULES
from obs_onnx.passes.traits.atoms import Labels, fixed, product
from obs_onnx.passes.traits.lipschitz import pointwise
from obs_onnx.passes.traits.op import Op, differentiable, related
from obs_onnx.passes.traits.relation import Freeze, Relation
from obs_onnx.passes.traits.shrink import Shrink

__all__ = ["TABLE"]

_LAID_OUT = "it is the layout of the cache"
_CACHES = ((3, 1), (4, 2))  # inputs, and the outputs that give them again


@dataclass(frozen=True)
class _Form:
    """Where an operator has what.

    Attributes:
        axis: heads among the axes of its caches.
        bias: input that is added to the scores.
        sinks: input with a number for each head of queries.
        scales: inputs with those of the caches.
        patterns: input with one row for each pattern of blocks, which heads of queries take in turn.
        others: inputs with further keys and values (batch, tokens, heads or 1, width).
    """

    axis: int
    bias: int | None = None
    sinks: int | None = None
    scales: tuple[int, ...] = ()
    patterns: int | None = None
    others: tuple[int, ...] = ()


def _heads(r: Relation) -> list[list[Labels]]:
    """(head, width) of queries, keys and values; without values they are the first widths of the keys."""
    heads, shared = r.integer("num_heads", 1), r.integer("kv_num_heads", 1)
    query, counts = r.axes(0), (heads, shared, shared)
    if r.has(1):
        given = [r.axes(slot) for slot in (1, 2 if r.has(2) else 1)]
        pieces = [query[-1], *(axes[-1] for axes in given)]
        r.fix([labels for axes in given for labels in axes[:-1]], COUNTED)
    else:
        pieces = np.split(query[-1], np.cumsum(counts)[:-1] * (len(query[-1]) // sum(counts)))
    return [r.atoms.split(piece, [n, len(piece) // n]) for piece, n in zip(pieces, counts, strict=True)]


def _relate(r: Relation, form: _Form) -> None:
    """The axes of queries in front of their heads stay: their elements are counted."""
    if r.used(3):
        raise Freeze("its scores are an output")
    if any(r.has(slot) and math.prod(map(len, r.axes(slot))) > 1 for slot in form.scales):
        raise Freeze("each width of its cache has a scale")
    query, parts = r.axes(0), _heads(r)
    tie_heads(r, parts)
    r.fix([part[1] for part in parts], ROTATED if r.integer("do_rotary") else _LAID_OUT)
    r.fix(query[:-1], COUNTED)
    _tie_caches(r, form, parts[1][0])
    if form.bias is not None and r.has(form.bias):
        tie_mask(r, form.bias, query[0], parts[0][0], query[1])
    if form.sinks is not None and r.has(form.sinks):
        r.tie(r.axes(form.sinks)[0], parts[0][0])
    if form.patterns is not None and len(r.axes(form.patterns)[0]) > 1:
        r.fix(parts[0][0], "its heads take several patterns in turn")
    head, shared = (r.atoms.resolve(part[0]) for part in parts[:2])
    width = fixed(r.integer("v_head_size") or len(parts[2][1]))
    r.give([*query[:-1], r.atoms.resolve(product([head, width]))])
    _give_caches(r, form, shared)

    def shrink(s: Shrink) -> None:
        s.attribute("num_heads", s.count(parts[0][0]))
        s.attribute("kv_num_heads", s.count(parts[1][0]))

    r.shrink(shrink)


def _tie_caches(r: Relation, form: _Form, shared: Labels) -> None:
    for slot, _ in _CACHES:
        if r.has(slot):
            axes = r.axes(slot)
            r.fix([labels for axis, labels in enumerate(axes) if axis != form.axis])
            r.tie(axes[form.axis], shared)
    for slot in form.others:
        if r.has(slot):
            axes = r.axes(slot)
            r.fix([*axes[:2], axes[3]])
            r.broadcast([[shared], [axes[2]]])


def _give_caches(r: Relation, form: _Form, shared: Labels) -> None:
    for _, index in _CACHES:
        if r.is_shaped(index):
            axes: Sequence[Labels] = [fixed(n) for n in r.shape(index)]
            r.give([*axes[: form.axis], shared, *axes[form.axis + 1 :]], index)


_FORMS = {
    "com.microsoft::GroupQueryAttention": _Form(1, bias=10, sinks=11, scales=(12, 13)),
    "com.microsoft::SparseAttention": _Form(1, patterns=5),
    "com.microsoft::PagedAttention": _Form(2, sinks=11, scales=(14, 15)),
    "com.microsoft::SparsePagedAttention": _Form(2, sinks=16, scales=(19, 20), others=(11, 12)),
}

TABLE = differentiable(
    related(
        {name: Op(macs=macs_products, lipschitz=pointwise(None), caches=_CACHES) for name in _FORMS},
        {partial(_relate, form=form): name for name, form in _FORMS.items()},
    ),
    RULES,
)
