"""Gates, rotations, norms and short convolutions that runtimes fuse, written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.ops.vjp.attention import (
    Inputs,
    given_inputs,
    pieces_of,
    refuse_packed,
    turned,
)
from obs_onnx.passes.ops.vjp.normalization import over_root_mean_square
from obs_onnx.passes.traits.composite import composite
from obs_onnx.passes.traits.vjp import Vjp

__all__ = ["ROTATION_RULES", "RULES", "STATE_RULES"]


def _halves(v: Vjp, x: ir.Value) -> list[ir.Value]:
    width = v.dims(x)[-1]
    if width is None:
        v.refuse("the width of its input is unknown")
    return pieces_of(v, x, [width // 2] * 2)


def _swiglu(v: Vjp, inputs: Inputs) -> list[ir.Value | None]:
    """``g sigmoid(alpha g) (u + beta)`` of clamped g and u, which are inputs, or halves of one."""
    gate, up = given_inputs(v, inputs, 2)
    assert gate is not None
    if up is None:
        gate, up = _halves(v, gate)
    alpha, beta, limit = (
        node_facts.float_attribute(v.node, name, default)
        for name, default in (("activation_alpha", 1.0), ("activation_beta", 0.0), ("limit", 0.0))
    )
    if limit > 0:
        highest = v.constant(np.array(limit), gate)
        gate, up = (v.op("Min", x, highest) for x in (gate, up))
        up = v.op("Max", up, v.constant(np.array(-limit), up))
    gate = v.mul(gate, v.op("Sigmoid", v.mul(gate, alpha)))
    return [v.mul(gate, v.add(up, beta))]


def _split_gelu(v: Vjp, inputs: Inputs) -> list[ir.Value | None]:
    """One half of the sum of an input and a bias times Gelu of the other."""
    x, bias = given_inputs(v, inputs, 2)
    assert x is not None
    assert bias is not None
    left, right = _halves(v, v.add(x, bias))
    part = v.mul(v.add(v.op("Erf", v.mul(right, 0.5**0.5)), 1.0), 0.5)
    return [v.mul(left, v.mul(right, part))]


def _gated_norm(v: Vjp, inputs: Inputs) -> list[ir.Value | None]:
    """Runs of as many elements as the scale has, over the root of their mean square, and gated."""
    x, scale, gate = given_inputs(v, inputs, 3)
    assert x is not None
    assert scale is not None
    assert gate is not None
    width, rank = v.dims(scale)[0], v.rank(x)
    if width is None:
        v.refuse("the length of its scale is unknown")
    runs = v.reshape(x, [*[0] * (rank - 1), -1, width])
    epsilon = node_facts.float_attribute(v.node, "epsilon", 1e-5)
    y = v.reshape_like(v.mul(over_root_mean_square(v, runs, rank, epsilon), scale), x)
    open_ = v.op("Sigmoid", gate)
    if node_facts.text_attribute(v.node, "activation", "silu") != "sigmoid":
        open_ = v.mul(gate, open_)
    return [v.mul(y, open_)]


def _multimodal(v: Vjp, inputs: Inputs) -> list[ir.Value | None]:
    """MRotaryEmbedding: each pair of widths is turned by the place in time, height or width."""
    x, places, cos, sin = given_inputs(v, inputs, 4)
    assert x is not None
    assert places is not None
    refuse_packed(v)
    sizes = node_facts.ints_attribute(v.node, "mrope_section") or ()
    which = _streams(sizes, node_facts.int_attribute(v.node, "mrope_layout"))
    cos, sin = (_by_stream(v, table, places, which) for table in (cos, sin))
    heads = node_facts.int_attribute(v.node, "num_heads") or (v.dims(x)[-1] or 0) // (2 * len(which))
    return [turned(v, x, cos, sin, heads)]


def _streams(sizes: tuple[int, ...], layout: int) -> np.ndarray:
    """0, 1 or 2 (time, height, width) for each pair of widths: in sections, or in turn."""
    if layout == 0:
        return np.repeat(np.arange(len(sizes)), sizes)
    which = np.zeros(sum(sizes), int)
    for stream in (1, 2):
        which[stream : 3 * sizes[stream] : 3] = stream
    return which


def _by_stream(v: Vjp, table: ir.Value | None, places: ir.Value, which: np.ndarray) -> ir.Value | None:
    """Rows of a table by three places for each token (3, B, T), of each of which some columns are taken."""
    if table is None:
        return None
    found = None
    for stream in range(3):
        place = v.squeeze(v.slice(places, [stream], [stream + 1], [0]), [0])
        part = v.mul(v.op("Gather", table, place, axis=0), v.constant(which == stream, table))
        found = part if found is None else v.add(found, part)
    return found


def _convolution(v: Vjp, inputs: Inputs) -> list[ir.Value | None]:
    """CausalConvWithState: a convolution of each channel by itself behind its state, or zeros."""
    x, kernel, bias, past = given_inputs(v, inputs, 4)
    assert x is not None
    assert kernel is not None
    others = ("state_window", "state_length", "input_channels", "state_update_capacity")
    channels, *_, length = v.dims(kernel)
    if any(node_facts.int_attribute(v.node, name) for name in others) or v.rank(kernel) != 3:
        v.refuse("it keeps several states, or has several axes of places")
    if channels is None or length is None:
        v.refuse("the size of its kernel is unknown")
    last = bool(node_facts.int_attribute(v.node, "channels_last"))
    step = node_facts.int_attribute(v.node, "dilation", 1)
    if last:
        x, past = (None if one is None else v.transpose(one, [0, 2, 1]) for one in (x, past))
        assert x is not None
    before = [0, 0, (length - 1) * step]
    whole = v.pad(x, before, [0, 0, 0]) if past is None else v.op("Concat", past, x, axis=2)
    more = [] if bias is None else [bias]
    y = v.op("Conv", whole, kernel, *more, group=channels, dilations=[step], kernel_shape=[length])
    if node_facts.text_attribute(v.node, "activation", "none") in ("silu", "swish"):
        y = v.mul(y, v.op("Sigmoid", y))
    return [v.transpose(y, [0, 2, 1]) if last else y]


RULES: Mapping[Callable[[Vjp], None], str] = {
    composite(_swiglu): "com.microsoft::SwiGLU",
    composite(_split_gelu): "com.microsoft::BiasSplitGelu",
    composite(_gated_norm): "com.microsoft::GatedRMSNorm",
}

STATE_RULES: Mapping[Callable[[Vjp], None], str] = {
    composite(_convolution): "CausalConvWithState com.microsoft::CausalConvWithState",
}

ROTATION_RULES: Mapping[Callable[[Vjp], None], str] = {
    composite(_multimodal): "com.microsoft::MRotaryEmbedding",
}
