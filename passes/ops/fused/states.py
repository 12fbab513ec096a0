"""Operators that carry a state from token to token: caches, linear attention, causal convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.ops.attention import keep_scale
from obs_onnx.passes.ops.vjp.fused.gates import STATE_RULES
from obs_onnx.passes.traits.atoms import Labels, fixed, product
from obs_onnx.passes.traits.lipschitz import pointwise
from obs_onnx.passes.traits.op import Op, differentiable, related
from obs_onnx.passes.traits.relation import Freeze, Relation
from obs_onnx.passes.traits.shrink import Shrink

__all__ = ["TABLE"]

_BEFORE = "each element follows from the ones before"


def _macs_linear(node: ir.Node) -> int:
    """Each token changes the state of each head once, and each query reads it."""
    query, value = (node_facts.dims(node_facts.input_of(node, slot)) for slot in (0, 2))
    if query is None or value is None:
        return 0
    heads = node_facts.int_attribute(node, "q_num_heads", 1)
    shared = node_facts.int_attribute(node, "kv_num_heads", 1)
    products = math.prod(dim or 1 for dim in query) * (value[-1] or 1)
    return products // shared + products // heads


def _macs_convolution(node: ir.Node) -> int:
    """Each output element sums as many as the kernel is long."""
    kernel = node_facts.dims(node.inputs[1]) or (1, 1)
    return node_facts.size(node.inputs[0]) * math.prod(dim or 1 for dim in kernel[2:])


def _relate_linear(r: Relation) -> None:
    """LinearAttention: queries (batch, tokens, heads * keys), values (batch, tokens, shared * values).

    The state of a head is (keys, values): a width of keys is summed over, one of values is by itself.
    """
    heads, shared = r.integer("q_num_heads", 1), r.integer("kv_num_heads", 1)
    if heads % shared or r.integer("state_window"):
        raise Freeze("its heads share queries, or it keeps several states")
    x = [r.axes(slot) for slot in range(3)]
    parts = [
        r.atoms.split(axes[2], [n, len(axes[2]) // n])
        for axes, n in zip(x, (heads, shared, shared), strict=True)
    ]
    (query, width), (key, key_width), (value, own) = parts
    r.tie(width, key_width)
    r.tie(key, value)
    r.tie(r.atoms.split(query, [shared, heads // shared])[0], key)
    for axes in x[1:]:
        r.tie(x[0][0], axes[0])
    r.fix([axes[1] for axes in x], _BEFORE)
    if r.has(3):
        for ours, theirs in zip((x[0][0], key, width, own), r.axes(3), strict=True):
            r.tie(ours, theirs)
    for slot in (4, 5):
        if r.has(slot):
            rate = r.axes(slot)
            r.tie(rate[0], x[0][0])
            r.fix(rate[1])
            if len(rate[2]) == shared:
                r.tie(rate[2], key)
            elif len(rate[2]) > 1:
                r.tie(rate[2], product([r.atoms.resolve(key), r.atoms.resolve(width)]))
    r.mix(0, 2)
    r.mix(1, 2)
    batch, tokens, query, key, width, own = map(r.atoms.resolve, (x[0][0], x[0][1], query, key, width, own))
    r.give([batch, tokens, product([query, own])])
    r.give([batch, key, width, own], 1)

    def shrink(s: Shrink) -> None:
        s.attribute("q_num_heads", s.count(query))
        s.attribute("kv_num_heads", s.count(key))
        keep_scale(s, width)

    r.shrink(shrink)


def _macs_delta(node: ir.Node) -> int:
    """Each token changes the state of each head of values once, and a query reads it."""
    value, key = (node_facts.dims(node_facts.input_of(node, slot)) for slot in (2, 1))
    return 0 if value is None or key is None else 2 * math.prod(dim or 1 for dim in (*value, key[-1]))


def _relate_delta(r: Relation) -> None:
    """GatedDeltaNet: queries and keys (tokens, heads, keys), values (tokens, heads of values, values), all of
    them with an axis for the batch in front or not. Several heads of values in a row share one of keys.

    The state of a head is (values, keys).
    """
    if not (r.has(1) and r.has(2)) or any(r.has(slot) for slot in (3, 9, 10)) or r.used(2):
        raise Freeze("its queries, keys and values are packed, or its samples are in a row")
    query, keys, values = (r.axes(slot) for slot in range(3))
    (head, width), (value, own) = keys[-2:], values[-2:]
    r.tie(query[-2], head)
    r.tie(query[-1], width)
    r.tie(r.atoms.split(value, [len(head), len(value) // len(head)])[0], head)
    r.fix([*query[:-2], *keys[:-2], *values[:-2]], _BEFORE)
    if r.integer("qk_l2_norm"):
        r.fix(width, "its statistics mix the elements of a head")
    for slot in (4, 5):
        if r.has(slot):
            rate = r.axes(slot)
            r.fix(rate[: len(values) - 2])
            for ours, theirs in zip(rate[len(values) - 2 :], (value, width), strict=False):
                r.tie(ours, theirs)
    if r.has(6):
        state = r.axes(6)
        r.fix(state[0])
        for ours, theirs in zip(state[1:], (value, own, width), strict=True):
            r.tie(ours, theirs)
    for slot in (7, 8):
        if r.has(slot):
            axes = r.axes(slot)
            flat = len(axes) == 1 and len(axes[0]) != len(value)
            whole = [product([r.atoms.resolve(value), r.atoms.resolve(width)])] if flat else (value, width)
            for ours, theirs in zip(axes, whole, strict=False):
                r.tie(ours, theirs)
    r.mix(0, -1)
    r.mix(1, -1)
    head, width, value, own = map(r.atoms.resolve, (head, width, value, own))
    r.give([*map(r.atoms.resolve, values[:-2]), value, own])
    if r.is_shaped(1):
        r.give([fixed(r.shape(1)[0]), value, own, width], 1)
    r.shrink(lambda s: keep_scale(s, width))


def _relate_convolution(r: Relation) -> None:
    """CausalConvWithState: every channel has a kernel, a bias and a state of its own."""
    own = "state_window state_length input_channels state_channels_last state_update_capacity"
    x, kernel, last = r.axes(0), r.axes(1), bool(r.integer("channels_last"))
    if any(r.integer(name) > 0 for name in own.split()) or (last and len(x) != 3):
        raise Freeze("its channels have several axes, or its state is another")
    place = 2 if last else 1
    r.fix([*(labels for axis, labels in enumerate(x) if axis not in (0, place)), *kernel[1:]], _BEFORE)
    r.tie(x[place], kernel[0])
    if r.has(2):
        r.tie(r.axes(2)[0], x[place])
    if r.has(3):
        past = r.axes(3)
        r.tie(past[0], x[0])
        r.tie(past[place], x[place])
        r.fix([labels for axis, labels in enumerate(past) if axis not in (0, place)])
    batch, channels = r.atoms.resolve(x[0]), r.atoms.resolve(x[place])

    def shaped(sizes: Sequence[Labels]) -> list[Labels]:
        return [batch if axis == 0 else channels if axis == place else n for axis, n in enumerate(sizes)]

    r.give(shaped(x))
    if r.is_shaped(1):
        r.give(shaped([fixed(n) for n in r.shape(1)]), 1)


def _relate_scatter(r: Relation) -> None:
    """TensorScatter: an update is written into a cache along one axis."""
    cache, update = r.axes(0), r.axes(1)
    axis = r.integer("axis", -2) % len(cache)
    for place, (ours, theirs) in enumerate(zip(cache, update, strict=True)):
        if place == axis:
            r.fix([ours, theirs], "elements are written at places that are counted")
        else:
            r.tie(ours, theirs)
    if r.has(2):
        r.tie(r.axes(2)[0], cache[0])
    r.give([r.atoms.resolve(labels) for labels in cache])


_STATE = ((3, 1),)
_LINEAR = Op(macs=_macs_linear, lipschitz=pointwise(None), states=_STATE)
_CONVOLUTION = Op(macs=_macs_convolution, lipschitz=pointwise(None), states=_STATE)

_KNOWN = related(
    {
        "TensorScatter": Op(lipschitz=pointwise(None), caches=((0, 0),)),
        "LinearAttention": _LINEAR,
        "com.microsoft::LinearAttention": _LINEAR,
        "com.microsoft::GatedDeltaNet": Op(macs=_macs_delta, lipschitz=pointwise(None), states=((6, 1),)),
        "CausalConvWithState": _CONVOLUTION,
        "com.microsoft::CausalConvWithState": _CONVOLUTION,
    },
    {
        _relate_scatter: "TensorScatter",
        _relate_linear: "LinearAttention com.microsoft::LinearAttention",
        _relate_delta: "com.microsoft::GatedDeltaNet",
        _relate_convolution: "CausalConvWithState com.microsoft::CausalConvWithState",
    },
)

TABLE = differentiable(_KNOWN, STATE_RULES)
