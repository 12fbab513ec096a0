"""Heads that share keys and values: what goes with what, and removal against silence by formula."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
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

TOKENS, WIDTH, HEADS, SHARED, HEAD, BLOCK = 7, 6, 4, 2, 8, 4
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


class PagedAttention(OpRun):
    """One text whose blocks of the cache are in the order of a table; nothing is in the cache before."""

    op_domain = "com.microsoft"

    def _run(self, query, key, value, keys, values, ends, lengths, table, *rest, **options):
        heads, shared = options["num_heads"], options["kv_num_heads"]
        v_width = options.get("v_head_size") or 0
        if key is None:
            width = query.shape[1] // (heads + 2 * shared)
            query, key, value = np.split(query, [heads * width, (heads + shared) * width], axis=1)
        key = key.reshape(len(key), shared, -1)
        value = key[..., :v_width] if value is None else value.reshape(len(key), shared, -1)
        sinks = rest[3] if len(rest) > 3 else None
        y = attend(query.reshape(len(query), heads, -1), key, value, options.get("scale"), sinks, causal=True)
        out = []
        for cache, new in ((keys, key), (values, value)):
            if cache is not None:
                cache = cache.copy()
                for token in range(len(new)):
                    cache[table[0, token // BLOCK], token % BLOCK] = new[token]
                out.append(cache)
        return (y.reshape(len(query), -1), *out)[: len(self.onnx_node.output)]


def paged(form: str, domain_op: str = "PagedAttention", **attributes: object):
    """``x`` is projected to queries, keys and values; the caches are inputs of the model."""
    sizes = [HEADS * HEAD, SHARED * HEAD, SHARED * HEAD]
    shared, latent = SHARED, form == "latent"
    if latent:
        shared, sizes = 1, [HEADS * HEAD, HEAD]
        attributes = {**attributes, "v_head_size": 6, "scale": 0.3, "kv_cache_layout": "LATENT"}
    parts = [sum(sizes)] if form == "packed" else sizes
    arrays = {f"w{i}": normal(WIDTH, n) for i, n in enumerate(parts)}
    arrays |= {
        "o": normal(HEADS * (6 if latent else HEAD), 5),
        "sinks": normal(HEADS),
        "ends": np.array([0, TOKENS], np.int32),
        "lengths": np.array([0], np.int32),
        "table": np.array([[2, 0]], np.int32),
    }
    names = [f"h{i}" for i in range(len(parts))]
    nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [name]) for i, name in enumerate(names)]
    given = [*names, "", ""][:3]
    caches = ["keys"] if latent else ["keys", "values"]
    outputs = ["a", *(f"new_{name}" for name in caches)]
    inputs = (
        [*given, *caches, "ends", "lengths", "table"]
        if not latent
        else [*given, "keys", "", "ends", "lengths", "table"]
    )
    if form == "sinks":
        inputs += ["", "", "", "sinks"]
    nodes += [
        helper.make_node(
            "PagedAttention",
            inputs,
            outputs,
            "middle",
            domain="com.microsoft",
            num_heads=HEADS,
            kv_num_heads=shared,
            **attributes,
        ),
        helper.make_node("MatMul", ["a", "o"], ["y"]),
    ]
    used = {name for one in nodes for name in one.input}
    cache = [3, BLOCK, shared, HEAD]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [TOKENS, WIDTH])]
        + [value(name, TensorProto.FLOAT, cache) for name in caches],
        [value("y", TensorProto.FLOAT, None)]
        + [value(f"new_{name}", TensorProto.FLOAT, cache) for name in caches],
        [numpy_helper.from_array(array, name) for name, array in arrays.items() if name in used],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def counts(coupling: Coupling) -> list[int]:
    return sorted(group.n for group in coupling.groups)


@pytest.mark.parametrize(
    ("form", "groups"), [("apart", [2]), ("packed", [2]), ("sinks", [2]), ("latent", [4])]
)
def test_heads_of_queries_go_where_the_cache_stays(form: str, groups: list[int]) -> None:
    """Of 4 heads of queries 2 share each head of keys; with one latent cache all 4 do."""
    dense = prepare(ir.from_proto(paged(form)))
    coupling = couple(dense)
    assert counts(coupling) == groups
    feeds = {"x": normal(TOKENS, WIDTH)}
    feeds |= {one.name: np.zeros(one.shape.numpy(), np.float32) for one in dense.graph.inputs[1:]}
    for seed in range(4):
        keep, small = random_keep(coupling, seed), dense.clone()
        RemoveChannels(keep).call(small)
        found, y = (evaluated(one, feeds, PagedAttention) for one in (small, silence(dense, keep)))
        for ours, theirs in zip(found, y, strict=True):
            np.testing.assert_allclose(ours, theirs, 1e-4, 1e-5)


@pytest.mark.parametrize("form", ["apart", "packed"])
def test_heads_of_a_paged_cache_that_may_change(form: str) -> None:
    model = prepare(ir.from_proto(paged(form)))
    caches = changing(model, "the model")
    assert caches.names == {"keys", "values"}
    coupling = couple(caches.inner(model), caches=caches.names)
    assert counts(coupling) == [SHARED, HEADS // SHARED]


def test_a_cache_with_a_scale_for_each_width_stays() -> None:
    proto = paged("apart")
    node = next(one for one in proto.graph.node if one.op_type == "PagedAttention")
    node.input.extend(["", "", "", "", "", "", "scale"])
    proto.graph.initializer.append(numpy_helper.from_array(normal(SHARED, 1, HEAD), "scale"))
    coupling = couple(prepare(ir.from_proto(proto)))
    assert counts(coupling) == []
    assert any("each width" in one.reason for one in coupling.frozen)
