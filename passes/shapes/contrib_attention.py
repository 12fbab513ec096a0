"""Output shapes of the runtimes' attention operators, and of the recurrences that stand in their place.

Inputs are at their places, None where one is missing. A size is None where it depends on the data: the tokens
of a cache that another input counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from obs_onnx.passes.graph.node_facts import int_attribute

__all__ = ["ATTENTION", "Dims", "Given", "there"]

Dims = tuple[int | None, ...]
Given = Sequence[tuple[int, ...] | None]


def _at(shapes: Given, slot: int) -> tuple[int, ...] | None:
    return shapes[slot] if slot < len(shapes) else None


def there(shapes: Given, slot: int) -> tuple[int, ...]:
    """Shape of an input that an operator has to have.

    Raises:
        ValueError: it is missing.
    """
    shape = _at(shapes, slot)
    if shape is None:
        raise ValueError(f"its input {slot} is missing")
    return shape


def _projected(node: ir.Node, shapes: Given, past: int) -> list[Dims | None]:
    """Attention that holds its projections: weights (input, queries + keys + values).

    The state is (2, batch, heads, tokens, width).
    """
    x, weight, state = there(shapes, 0), there(shapes, 1), _at(shapes, past)
    sizes = node.attributes.get_ints("qkv_hidden_sizes", None) or (weight[1] // 3,) * 3
    heads, tokens = int_attribute(node, "num_heads", 1), x[-2]
    if state is None:
        present: Dims = (2, x[0], heads, tokens, sizes[0] // heads)
    elif int_attribute(node, "past_present_share_buffer"):
        present = state
    else:
        present = (*state[:3], state[3] + tokens, state[4])
    return [(*x[:-1], sizes[2]), present]


def _fused(node: ir.Node, shapes: Given) -> list[Dims | None]:
    return _projected(node, shapes, 4)


def _quantized(node: ir.Node, shapes: Given) -> list[Dims | None]:
    return _projected(node, shapes, 8)


def _packed(node: ir.Node, shapes: Given) -> list[Dims | None]:
    """Without padding: (tokens of all sequences, width)."""
    return _projected(node, shapes, len(shapes))[:1]


def _heads(node: ir.Node, shapes: Given) -> list[Dims | None]:
    """Queries, keys, values apart; packed as (batch, tokens, heads, 3 or 2, width); or a finished cache."""
    query, key, value = there(shapes, 0), _at(shapes, 1), _at(shapes, 2)
    heads, finished = int_attribute(node, "num_heads", 1), key is not None and len(key) == 4
    total: int | None
    if value is None:
        source = query if key is None else key
        if len(source) != 5:
            raise ValueError("its packed input does not tell its heads")
        hidden, length, width = source[2] * source[4], source[1], source[4]
    elif len(value) == 4:
        hidden, length, width = value[1] * value[3], value[2], value[3]
    else:
        hidden, length, width = value[-1], value[1], value[-1] // heads
    key_width = width if value is None else query[-1] // heads
    past, total, cached = None if finished else _at(shapes, 6), length, length
    if past is not None and _at(shapes, 8) is not None:  # written into a cache of a fixed size
        total, cached = None, past[2]
    elif past is not None:
        total = cached = past[2] + length
    cache = (query[0], heads, cached)
    return [
        (*query[:2], hidden),
        (*cache, key_width),
        (*cache, width),
        (query[0], heads, query[1], total),
    ]


def _heads_of_packed(node: ir.Node, shapes: Given) -> list[Dims | None]:
    """Without padding: queries (tokens, heads, 3, width) packed, or apart."""
    query, value = there(shapes, 0), _at(shapes, 2)
    return [(query[0], query[1] * query[3] if value is None else value[-1])]


def _one_token(node: ir.Node, shapes: Given) -> list[Dims | None]:
    """One new token against a cache; queries, keys and values may come packed in a row."""
    query, value, past = there(shapes, 0), _at(shapes, 2), _at(shapes, 5)
    heads = int_attribute(node, "num_heads", 1)
    hidden = query[2] // 3 if value is None else value[1] * value[3] if len(value) == 4 else value[2]
    cache: Dims | None = past
    if past is not None and not int_attribute(node, "past_present_share_buffer"):
        cache = (*past[:2], past[2] + 1, past[3])
    return [(*query[:2], hidden), cache, cache, (query[0], heads, query[1], None)]


def _shared(node: ir.Node, shapes: Given) -> tuple[Dims, int, int]:
    """Shape of the result, heads and width of keys where several heads share one; queries may be packed."""
    query, key = there(shapes, 0), _at(shapes, 1)
    heads, shared = int_attribute(node, "num_heads", 1), int_attribute(node, "kv_num_heads", 1)
    width = query[-1] // (heads if key is not None else heads + 2 * shared)
    return (*query[:-1], heads * (int_attribute(node, "v_head_size") or width)), shared, width


def _grouped(node: ir.Node, shapes: Given) -> list[Dims | None]:
    result, shared, width = _shared(node, shapes)
    query, key, past = there(shapes, 0), _at(shapes, 1), _at(shapes, 3)
    if past is not None:
        cache: Dims = (*past[:2], None, past[3])
    else:
        cache = (query[0], shared, query[1] if key is None else key[1], width)
    return [result, cache, cache, (query[0], int_attribute(node, "num_heads", 1), query[1], None)]


def _updated(node: ir.Node, shapes: Given) -> list[Dims | None]:
    """Caches of a fixed size, inputs 3 and 4, are written in place."""
    return [_shared(node, shapes)[0], _at(shapes, 3), _at(shapes, 4)]


def _recurrent(node: ir.Node, shapes: Given) -> list[Dims | None]:
    """LinearAttention: the state is (batch, heads, width of keys, width of values), or a window of such."""
    query, key, value = (there(shapes, slot) for slot in range(3))
    heads, shared = int_attribute(node, "q_num_heads", 1), int_attribute(node, "kv_num_heads", 1)
    width, window = value[2] // shared, int_attribute(node, "state_window")
    state = (*((window,) if window else ()), key[0], shared, key[2] // shared, width)
    return [(*query[:2], max(heads, shared) * width), _at(shapes, 3) or state]


def _delta(node: ir.Node, shapes: Given) -> list[Dims | None]:
    """GatedDeltaNet: (tokens, heads, width), or packed; the state is (batch, heads, values, keys)."""
    query, value, state = there(shapes, 0), _at(shapes, 2), _at(shapes, 6)
    if value is None:
        state = there(shapes, 6)
        return [(*query[:-1], state[1], state[2]), state]
    heads, width = max(query[-2], value[-2]), value[-1]
    if state is None:
        batch = query[0] if len(query) == 4 else there(shapes, 3)[0] - 1
        state = (batch, value[-2], width, query[-1])
    return [(*query[:-2], heads, width), state]


def _convolved(node: ir.Node, shapes: Given) -> list[Dims | None]:
    """CausalConvWithState: the state is what the kernel still sees along the last axis."""
    x, kernel, past = there(shapes, 0), there(shapes, 1), _at(shapes, 3)
    if any(int_attribute(node, name) for name in ("input_channels", "input_channel_offset", "state_length")):
        raise ValueError("it takes a part of its channels")
    length = (kernel[-1] - 1) * int_attribute(node, "dilation", 1)
    last = int_attribute(node, "channels_last")
    window = int_attribute(node, "state_window")
    state = (x[0], length, *x[2:]) if last else (*x[:-1], length)
    state = (window, *state) if window else state
    return [x, past or state]


ATTENTION = {
    "com.microsoft::Attention": _fused,
    "com.microsoft::QAttention": _quantized,
    "com.microsoft::PackedAttention": _packed,
    "com.microsoft::DecoderMaskedSelfAttention": _fused,
    "com.microsoft::MultiHeadAttention": _heads,
    "com.microsoft::PackedMultiHeadAttention": _heads_of_packed,
    "com.microsoft::DecoderMaskedMultiHeadAttention": _one_token,
    "com.microsoft::GroupQueryAttention": _grouped,
    "com.microsoft::SparseAttention": _updated,
    "com.microsoft::PagedAttention": _updated,
    "com.microsoft::SparsePagedAttention": _updated,
    "com.microsoft::LinearAttention": _recurrent,
    "com.microsoft::GatedDeltaNet": _delta,
    "com.microsoft::CausalConvWithState": _convolved,
}
