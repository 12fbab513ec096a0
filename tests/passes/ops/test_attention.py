"""Heads of fused attention go together with their projections, whatever the form of both."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from channel_helpers import random_keep
from decoders import FORMS, HEAD, decoder, feed, session
from onnx import helper, numpy_helper

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence

FFN, RESIDUAL, SHARED, REPEATED, HEADS = 24, 32, 3, 2, 6
IDS = np.arange(8).reshape(2, 4) * 5


def groups(model, **options):
    return sorted(group.n for group in couple(prepare(ir.from_proto(model)), **options).groups)


def check(model, seeds=4):
    """Removal is silence, for a text from its beginning, and behind caches that are filled."""
    dense = prepare(ir.from_proto(model))
    coupling = couple(dense)
    for seed in range(seeds):
        keep = random_keep(coupling, seed)
        small = dense.clone()
        RemoveChannels(keep).call(small)
        small, silent = session(small), session(silence(dense, keep, coupling))
        for ids, past in ((IDS, 0), (IDS[:, :1], 5)):
            given = feed(silent, ids, past)
            for found, y in zip(small.run(None, given), silent.run(None, given), strict=True):
                np.testing.assert_allclose(found, y, rtol=1e-3, atol=1e-4)
    return coupling


WITHOUT_CACHE = {
    "grouped": [SHARED, REPEATED],
    "packed": [SHARED, REPEATED],
    "standard": [SHARED, REPEATED, HEAD, HEAD],
    "packed standard": [SHARED, REPEATED, HEAD, HEAD],
    "multi head": [HEADS, HEAD, HEAD],
    "fused": [HEADS, HEAD],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_projection_of_all_heads_is_like_three_of_them(form):
    coupling = check(decoder(form, cache=False))
    expected = sorted([RESIDUAL, *2 * [FFN, *WITHOUT_CACHE[form]]])
    assert sorted(group.n for group in coupling.groups) == expected


@pytest.mark.parametrize("form", FORMS)
def test_heads_whose_cache_is_an_input_stay(form):
    coupling = check(decoder(form))
    repeated = [] if form in ("multi head", "fused") else [REPEATED]
    assert sorted(group.n for group in coupling.groups) == sorted([RESIDUAL, *2 * [FFN, *repeated]])


@pytest.mark.parametrize("form", ["grouped", "packed"])
@pytest.mark.parametrize(
    "more",
    [{"sinks": True}, {"softcap": 3.0}, {"local_window_size": 3}, {"rotary_interleaved": 1, "scale": 0.0}],
)
def test_sinks_caps_and_windows_of_grouped_heads(form, more):
    assert sorted([RESIDUAL, *2 * [FFN, REPEATED]]) == sorted(
        g.n for g in check(decoder(form, **more)).groups
    )


@pytest.mark.parametrize("axes", [3, 4])
def test_a_rotation_by_several_positions_passes_heads_on(axes):
    """MRotaryEmbedding: positions of time, height and width; what it gives is summed over heads."""
    rng, heads, width = np.random.default_rng(0), 3, 8
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Reshape", ["h", "apart"], ["h4"]),
        helper.make_node("Transpose", ["h4"], ["ht"], perm=[0, 2, 1, 3]),
        helper.make_node(
            "MRotaryEmbedding",
            ["h" if axes == 3 else "ht", "places", "cos", "sin"],
            ["z"],
            "rotate",
            domain="com.microsoft",
            num_heads=heads,
            mrope_section=[2, 1, 1],
        ),
        helper.make_node("Transpose", ["z"], ["zt"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["z" if axes == 3 else "zt", "back"], ["flat"]),
        helper.make_node("MatMul", ["flat", "o"], ["y"]),
    ]
    keep = {"h4", "ht", "zt"} if axes == 3 else set()
    nodes = [node for node in nodes if not keep & set(node.output)]
    arrays = {
        "w": rng.standard_normal((4, heads * width)).astype(np.float32),
        "o": rng.standard_normal((heads * width, 3)).astype(np.float32),
        "cos": np.cos(np.arange(40).reshape(10, 4) / 7).astype(np.float32),
        "sin": np.sin(np.arange(40).reshape(10, 4) / 7).astype(np.float32),
        "places": rng.integers(0, 9, (3, 2, 5)),
        "apart": np.array([0, 0, heads, width]),
        "back": np.array([0, 0, heads * width]),
    }
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, [2, 5, 4])],
        [helper.make_tensor_value_info("y", 1, [2, 5, 3])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items() if name in used],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    dense = prepare(ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10)))
    coupling = couple(dense)
    (group,) = coupling.groups
    assert group.n == heads
    x = {"x": rng.standard_normal((2, 5, 4)).astype(np.float32)}
    for lost in range(heads):
        mask, small = {group.id: np.arange(heads) != lost}, dense.clone()
        RemoveChannels(mask).call(small)
        found, y = (session(one).run(None, x)[0] for one in (small, silence(dense, mask, coupling)))
        np.testing.assert_allclose(found, y, rtol=1e-4, atol=1e-5)


def test_counts_of_heads_of_each_layer_are_written():
    model = prepare(ir.from_proto(decoder("packed", cache=False)))
    coupling = couple(model)
    first, second = (
        next(g for g in coupling.groups if g.n == SHARED and g.sites[0].initializer == f"qkv{i}.weight")
        for i in (0, 1)
    )
    keep = {first.id: np.array([True, False, True]), second.id: np.array([False, False, True])}
    RemoveChannels(keep, coupling).call(model)
    found = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    counts = [(node.attributes["num_heads"].value, node.attributes["kv_num_heads"].value) for node in found]
    assert counts == [(4, 2), (2, 1)]
    shapes = [tuple(model.graph.initializers[f"qkv{i}.weight"].shape) for i in (0, 1)]
    assert shapes == [(RESIDUAL, 8 * HEAD), (RESIDUAL, 4 * HEAD)]


def one(op_type, inputs, sizes, **attributes):
    """A relation of one node whose three inputs come from projections of ``sizes``, reshaped."""
    rng, nodes, held = np.random.default_rng(0), [], []
    for name, size in zip(inputs, sizes, strict=True):
        if not name:
            continue
        held.append(
            numpy_helper.from_array(
                rng.standard_normal((8, int(np.prod(size)))).astype(np.float32), f"w{name}"
            )
        )
        held.append(numpy_helper.from_array(np.array([0, 0, *size]), f"s{name}"))
        nodes.append(helper.make_node("MatMul", ["x", f"w{name}"], [f"p{name}"]))
        nodes.append(helper.make_node("Reshape", [f"p{name}", f"s{name}"], [name]))
    nodes.append(helper.make_node(op_type, inputs, ["a"], "middle", domain="com.microsoft", **attributes))
    nodes.append(helper.make_node("MatMul", ["a", "wo"], ["y"]))
    held.append(numpy_helper.from_array(rng.standard_normal((24, 5)).astype(np.float32), "wo"))
    x, y = (
        helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", ["N", 7, 8]), ("y", None))
    )
    info = [helper.make_tensor_value_info("a", 1, ["N", 7, 24])]
    graph = helper.make_graph(nodes, "g", [x], [y], held, value_info=info)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize(
    ("inputs", "sizes", "expected"),
    [
        (["q"], [(3, 3, 8)], [3, 8]),
        (["q", "kv"], [(24,), (3, 2, 8)], [3, 8]),
        (["q", "k", "v"], [(24,), (24,), (24,)], [3, 8, 8]),
    ],
)
def test_multi_head_attention_packs_its_inputs_in_several_ways(inputs, sizes, expected):
    found = groups(one("MultiHeadAttention", inputs, sizes, num_heads=3))
    assert found == expected
