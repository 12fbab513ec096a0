"""Attention without padding and of one token: removal against silence, by formula or by onnxruntime."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from channel_helpers import random_keep
from formulas import attend, evaluated
from onnx import TensorProto, helper, numpy_helper
from onnx.reference.op_run import OpRun

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import Coupling, couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence
from obs_onnx.passes.interface.caches import changing

LENGTHS, WIDTH, HEADS, KEYS, VALUES = (3, 2), 6, 4, 8, 5
TOKENS = sum(LENGTHS)
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def _texts(q, k, v, ends, heads, scale, bias):
    """Each text attends to itself alone."""
    found = []
    for text, (start, end) in enumerate(itertools.pairwise(ends)):
        parts = [x[start:end].reshape(end - start, heads, -1) for x in (q, k, v)]
        added = None if bias is None else bias[text % len(bias)][:, : end - start, : end - start]
        found.append(attend(*parts, scale or None, bias=added).reshape(end - start, -1))
    return np.concatenate(found)


class PackedAttention(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x, weight, shift, offsets, ends, bias=None, num_heads=1, scale=0.0, qkv_hidden_sizes=None):
        sizes = qkv_hidden_sizes or [weight.shape[1] // 3] * 3
        q, k, v = np.split(x @ weight + shift, np.cumsum(sizes)[:-1], axis=1)
        return (_texts(q, k, v, ends, num_heads, scale, bias),)


class PackedMultiHeadAttention(OpRun):
    op_domain = "com.microsoft"

    def _run(self, q, k, v, shift, offsets, ends, bias=None, num_heads=1, scale=0.0):
        if k is None:
            q, k, v = (q[:, :, i].reshape(len(q), -1) for i in range(3))
        if shift is not None:
            q, k, v = (
                x + b
                for x, b in zip((q, k, v), np.split(shift, np.cumsum([q.shape[1], k.shape[1]])), strict=True)
            )
        return (_texts(q, k, v, ends, num_heads, scale, bias),)


def graph(nodes, arrays, inputs, outputs) -> onnx.ModelProto:
    used = {name for one in nodes for name in one.input}
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "g",
        [value(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [value(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in arrays.items() if name in used],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=10)


def attention(op_type: str, inputs: str, outputs: str = "a", **attributes: object) -> onnx.NodeProto:
    given = [name if name != "-" else "" for name in inputs.split()]
    return helper.make_node(
        op_type, given, outputs.split(), "middle", domain="com.microsoft", num_heads=HEADS, **attributes
    )


def matmul(x: str, w: str, y: str) -> onnx.NodeProto:
    return helper.make_node("MatMul", [x, w], [y])


PLACES = {
    "offsets": np.array([[0, 1, 2], [3, 4, 5]], np.int32),
    "ends": np.array([0, 3, 5], np.int32),
    "bias": normal(1, HEADS, 3, 3),
    "each": normal(2, 1, 3, 3),
}


def without_padding(form: str) -> onnx.ModelProto:
    wide, own = HEADS * KEYS, HEADS * VALUES
    arrays = {
        "w": normal(WIDTH, 3 * wide),
        "u": normal(WIDTH, 2 * wide + own),
        "first": normal(WIDTH, WIDTH),
        "shift": normal(3 * wide),
        "shifts": normal(2 * wide + own),
        "apart": np.array([0, HEADS, 3, KEYS]),
        **{f"w{i}": normal(WIDTH, n) for i, n in enumerate((wide, wide, own))},
        "o": normal(own if form in ("sizes", "apart") else wide, 5),
        **PLACES,
    }
    first = matmul("x", "first", "f")
    if form == "fused":
        nodes = [first, attention("PackedAttention", "f w shift offsets ends bias")]
    elif form == "sizes":
        sizes = {"qkv_hidden_sizes": [wide, wide, own]}
        nodes = [first, attention("PackedAttention", "f u shifts offsets ends each", **sizes)]
    elif form == "apart":
        nodes = [matmul("x", f"w{i}", f"h{i}") for i in range(3)]
        nodes.append(attention("PackedMultiHeadAttention", "h0 h1 h2 shifts offsets ends bias"))
    else:
        nodes = [matmul("x", "w", "h"), helper.make_node("Reshape", ["h", "apart"], ["p"])]
        nodes.append(attention("PackedMultiHeadAttention", "p - - - offsets ends"))
    return graph([*nodes, matmul("a", "o", "y")], arrays, {"x": [TOKENS, WIDTH]}, {"y": None})


def counts(coupling: Coupling) -> list[int]:
    return sorted(group.n for group in coupling.groups)


@pytest.mark.parametrize(
    ("form", "groups"),
    [
        ("fused", [HEADS, WIDTH, KEYS]),
        ("sizes", [HEADS, VALUES, WIDTH, KEYS]),
        ("apart", [HEADS, VALUES, KEYS]),
        ("packed", [HEADS, KEYS]),
    ],
)
def test_tokens_without_padding(form: str, groups: list[int]) -> None:
    dense = prepare(ir.from_proto(without_padding(form)))
    coupling = couple(dense)
    assert counts(coupling) == groups
    feeds = {"x": normal(TOKENS, WIDTH)}
    for seed in range(4):
        keep, small = random_keep(coupling, seed), dense.clone()
        RemoveChannels(keep).call(small)
        found, y = (
            evaluated(one, feeds, PackedAttention, PackedMultiHeadAttention)[0]
            for one in (small, silence(dense, keep))
        )
        np.testing.assert_allclose(found, y, 1e-4, 1e-5)


def one_token(form: str) -> onnx.ModelProto:
    wide = HEADS * KEYS
    arrays = {f"w{i}": normal(WIDTH, wide) for i in range(3)} | {"packed": normal(WIDTH, 3 * wide)}
    arrays |= {"o": normal(wide, 5), "shift": normal(3 * wide), "length": np.array([2], np.int32)}
    nodes = [matmul("x", f"w{i}", f"h{i}") for i in range(3)]
    names = "h0 h1 h2"
    if form == "packed":
        nodes, names = [matmul("x", "packed", "h")], "h - -"
    shared = {"past_present_share_buffer": 1} if form != "grown" else {}
    given = f"{names} - - keys values length" + " - - shift" * (form != "packed")
    nodes.append(attention("DecoderMaskedMultiHeadAttention", given, "a new_keys new_values", **shared))
    cache = [2, HEADS, 4, KEYS]
    inputs = {"x": [2, 1, WIDTH], "keys": cache, "values": cache}
    return graph(
        [*nodes, matmul("a", "o", "y")], arrays, inputs, {"y": None, "new_keys": cache, "new_values": cache}
    )


@pytest.mark.parametrize(("form", "groups"), [("apart", [HEADS]), ("packed", [HEADS])])
def test_one_token_behind_a_buffer(form: str, groups: list[int]) -> None:
    """Heads go with those of the cache; widths are the layout of the buffer."""
    dense = prepare(ir.from_proto(one_token(form)))
    assert counts(couple(dense)) == []
    caches = changing(dense, "the model")
    assert caches.names == {"keys", "values"}
    inner = caches.inner(dense)
    coupling = couple(inner, caches=caches.names)
    assert counts(coupling) == groups
    feeds = {"x": normal(2, 1, WIDTH), "keys": normal(2, HEADS, 4, KEYS), "values": normal(2, HEADS, 4, KEYS)}
    for lost in range(HEADS):
        keep, small = {coupling.groups[0].id: np.arange(HEADS) != lost}, inner.clone()
        RemoveChannels(keep, couple(small, caches=caches.names)).call(small)
        (node,) = (one for one in small.graph if one.op_type.startswith("Decoder"))
        assert node.attributes["num_heads"].value == HEADS - 1
        if form == "packed":  # for GPUs alone
            places = np.arange(3 * HEADS * KEYS).reshape(3, HEADS, KEYS)
            kept = np.delete(places, lost, axis=1).reshape(-1)
            weight, before = (one.graph.initializers["packed"].const_value.numpy() for one in (small, dense))
            np.testing.assert_array_equal(weight, before[:, kept])
            continue
        found, y = (
            ort.InferenceSession(
                ir.to_proto(one).SerializeToString(), providers=["CPUExecutionProvider"]
            ).run(["y"], feeds)[0]
            for one in (small, silence(inner, keep, coupling))
        )
        np.testing.assert_allclose(found, y, 1e-4, 1e-5)


def test_self_attention_of_one_token() -> None:
    wide = HEADS * KEYS
    arrays = {
        "first": normal(WIDTH, WIDTH),
        "w": normal(WIDTH, 3 * wide),
        "shift": normal(3 * wide),
        "length": np.array([2], np.int32),
        "o": normal(wide, 5),
    }
    options = {"past_present_share_buffer": 1}
    nodes = [
        matmul("x", "first", "f"),
        attention("DecoderMaskedSelfAttention", "f w shift - past - length", "a present", **options),
        matmul("a", "o", "y"),
    ]
    inputs = {"x": [2, 1, WIDTH], "past": [2, 2, HEADS, 4, KEYS]}
    dense = prepare(ir.from_proto(graph(nodes, arrays, inputs, {"y": None, "present": inputs["past"]})))
    assert counts(couple(dense)) == [WIDTH]
    caches = changing(dense, "the model")
    inner = caches.inner(dense)
    coupling = couple(inner, caches=caches.names)
    assert counts(coupling) == [HEADS, WIDTH]
    heads = next(group for group in coupling.groups if group.n == HEADS)
    small = inner.clone()
    keep = {heads.id: np.array([True, False, True, True])}
    RemoveChannels(keep, couple(small, caches=caches.names)).call(small)
    weight = small.graph.initializers["w"].const_value.numpy()
    kept = np.r_[0:KEYS, 2 * KEYS : 4 * KEYS]
    columns = np.concatenate([kept, wide + kept, 2 * wide + kept])
    np.testing.assert_array_equal(weight, arrays["w"][:, columns])
    assert small.graph.initializers["o"].shape == (3 * KEYS, 5)
