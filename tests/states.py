"""Small models in tests whose states of linear attention and convolutions are inputs and outputs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["STATES", "keeping_states"]

WIDTH, SHARED, REPEATED, KEYS, VALUES, CHANNELS, KERNEL = 4, 2, 2, 4, 6, 10, 3

STATES = {
    "linear": ["batch", SHARED, KEYS, VALUES],
    "delta": ["batch", SHARED * REPEATED, VALUES, KEYS],
    "convolution": ["batch", CHANNELS, KERNEL - 1],
    "convolution, channels last": ["batch", KERNEL - 1, CHANNELS],
}
"""Shape of the state of each form."""


def _linear(op):
    op("MatMul", "x wq", "q")
    op("MatMul", "x wk", "k")
    op("MatMul", "x wv", "v")
    op("MatMul", "x wd", "d0")
    op("Sigmoid", "d0", "d1")
    op("Neg", "d1", "d")
    op("MatMul", "x wb", "b0")
    op("Sigmoid", "b0", "b")
    counts = {"q_num_heads": SHARED * REPEATED, "kv_num_heads": SHARED}
    op("LinearAttention", "q k v state d b", "a next", domain="com.microsoft", **counts)
    op("MatMul", "a o", "y")


def _delta(op):
    for name, sizes in (("q", "by_keys"), ("k", "by_keys"), ("v", "by_values")):
        op("MatMul", f"x w{name}", f"{name}0")
        op("Reshape", f"{name}0 {sizes}", name)
    op("MatMul", "x we", "e0")
    op("Sigmoid", "e0", "e1")
    op("Neg", "e1", "e")
    op("GatedDeltaNet", "q k v - e - state", "z next", domain="com.microsoft", update_rule="gated")
    op("Reshape", "z back", "a")
    op("MatMul", "a o", "y")


def _convolution(op):
    op("MatMul", "x wc", "h")
    op("Transpose", "h", "t", perm=[0, 2, 1])
    op("CausalConvWithState", "t kernel bias state", "c next", domain="com.microsoft", activation="silu")
    op("Transpose", "c", "r", perm=[0, 2, 1])
    op("MatMul", "r oc", "y")


def _last(op):
    op("MatMul", "x wc", "h")
    op("CausalConvWithState", "h kernel bias state", "c next", domain="com.microsoft", channels_last=1)
    op("MatMul", "c oc", "y")


_FORMS = {
    "linear": _linear,
    "delta": _delta,
    "convolution": _convolution,
    "convolution, channels last": _last,
}


def keeping_states(form: str) -> onnx.ModelProto:
    """``x`` (batch, tokens, 4) to ``y`` (batch, tokens, 3), with ``state`` before and ``next`` after."""
    rng, heads, nodes = np.random.default_rng(0), SHARED * REPEATED, []

    def normal(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / 2).astype(np.float32)

    def op(op_type: str, inputs: str, outputs: str, **more: object) -> None:
        given = [name if name != "-" else "" for name in inputs.split()]
        nodes.append(helper.make_node(op_type, given, outputs.split(), outputs.split()[0], **more))

    _FORMS[form](op)
    keys, values = (heads, SHARED)[form == "delta"] * KEYS, (SHARED, heads)[form == "delta"] * VALUES
    held = {
        "wq": normal(WIDTH, keys),
        "wk": normal(WIDTH, SHARED * KEYS),
        "wv": normal(WIDTH, values),
        "wd": normal(WIDTH, SHARED),
        "wb": normal(WIDTH, SHARED),
        "we": normal(WIDTH, heads),
        "o": normal(heads * VALUES, 3),
        "wc": normal(WIDTH, CHANNELS),
        "kernel": normal(CHANNELS, 1, KERNEL),
        "bias": normal(CHANNELS),
        "oc": normal(CHANNELS, 3),
        "by_keys": np.array([0, 0, SHARED, KEYS]),
        "by_values": np.array([0, 0, heads, VALUES]),
        "back": np.array([0, 0, heads * VALUES]),
    }
    used = {name for node in nodes for name in node.input}
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [
            value("x", TensorProto.FLOAT, ["batch", "tokens", WIDTH]),
            value("state", TensorProto.FLOAT, STATES[form]),
        ],
        [
            value("y", TensorProto.FLOAT, ["batch", "tokens", 3]),
            value("next", TensorProto.FLOAT, STATES[form]),
        ],
        [numpy_helper.from_array(array, name) for name, array in held.items() if name in used],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
