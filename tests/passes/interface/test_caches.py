"""Caches of keys and values: found, cut with the heads, and still those of the next step."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from channel_helpers import random_keep
from decoders import FORMS, HEAD, decoder, feed, generated, session
from onnx import helper
from states import STATES, keeping_states

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.keep_file import keep_file, replay
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence
from obs_onnx.passes.interface.caches import Cache, Caches, find_caches

IDS = np.arange(8).reshape(2, 4) * 5


def opened(form):
    whole = ir.from_proto(decoder(form))
    caches = Caches(whole, find_caches(whole))
    dense = prepare(caches.inner(whole))
    return caches, dense, couple(dense, caches=caches.names)


@pytest.mark.parametrize("form", FORMS)
def test_heads_go_with_their_caches_which_still_serve_the_next_step(form):
    caches, dense, coupling = opened(form)
    for seed in range(3):
        keep = random_keep(coupling, seed)
        small = dense.clone()
        RemoveChannels(keep, coupling.of(small)).call(small)
        cut, silent = session(small), session(silence(dense, keep, coupling))
        for ids, past in ((IDS, 0), (IDS[:, :1], 5)):
            given = feed(silent, ids, past)
            found, expected = (one.run(["logits"], given)[0] for one in (cut, silent))
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
        final = session(caches.closed(small))
        assert np.array_equal(generated(final, IDS, 32, True), generated(final, IDS, 32, False))


def test_the_interface_says_how_many_heads_are_left():
    caches, dense, coupling = opened("packed")
    assert caches.pairs[1] == Cache("past_key_values.0.value", "present.0.value", "a0", 2)
    keep = {
        group.id: np.array([True, False, True])
        for group in coupling.groups
        if group.n == 3 and group.sites[0].initializer == "qkv0.weight"
    }
    small = dense.clone()
    RemoveChannels(keep, coupling.of(small)).call(small)
    assert caches.kept(small) == {f"past_key_values.0.{kind}": {1: [0, 2]} for kind in ("key", "value")}
    closed = caches.closed(small)
    there = {str(value.name): list(value.shape) for value in (*closed.graph.inputs, *closed.graph.outputs)}
    assert there["past_key_values.0.key"] == ["batch_size", 2, "past_sequence_length", HEAD]
    assert there["present.0.value"] == ["batch_size", 2, "total_sequence_length", HEAD]
    assert there["present.1.value"] == ["batch_size", 3, "total_sequence_length", HEAD]
    assert [value.name for value in closed.graph.outputs] == [v.name for v in caches.whole.graph.outputs]
    assert not [
        node for node in closed.graph if node.op_type == "Gather" and node.inputs[0] in closed.graph.inputs
    ]

    again = replay(caches.whole, keep_file(caches.inner(caches.whole), coupling, keep))
    given = feed(session(closed), IDS[:, :1], 3)
    for found, y in zip(session(again).run(None, given), session(closed).run(None, given), strict=True):
        np.testing.assert_allclose(found, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_what_the_cache_keeps_from_going_is_said(form):
    coupling = couple(prepare(ir.from_proto(decoder(form))))
    first = "past_0" if form == "fused" else "past_key_values.0.key"
    reasons = [frozen.reason for frozen in coupling.frozen if first in frozen.reason]
    assert len(reasons) == 1
    assert "is an input" in reasons[0]


def test_a_cache_that_plain_operators_keep_is_found():
    nodes = [
        helper.make_node("Identity", ["past"], ["before"]),
        helper.make_node("Concat", ["before", "new"], ["all"], axis=1),
        helper.make_node("Identity", ["all"], ["present"]),
        helper.make_node("Concat", ["ids", "ids"], ["more"], axis=1),
    ]
    kinds = {"past": 1, "new": 1, "present": 1, "ids": 7, "more": 7}
    value = {name: helper.make_tensor_value_info(name, kind, [2, None, 8]) for name, kind in kinds.items()}
    inputs, outputs = [value[n] for n in ("past", "new", "ids")], [value["present"], value["more"]]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
    assert find_caches(model) == (Cache("past", "present", "all", 0),)


GONE = {  # groups of channels when the state may change, and when it may not
    "linear": ([2, 2, 4, 6], [2]),
    "delta": ([2, 2, 4, 6], []),
    "convolution": ([10], []),
    "convolution, channels last": ([10], []),
}


@pytest.mark.parametrize("form", STATES)
def test_a_state_is_a_cache_which_stays_unless_it_may_change(form):
    """Cut with heads and widths, it still leads from the first tokens to the next ones."""
    whole = ir.from_proto(keeping_states(form))
    caches = Caches(whole, find_caches(whole))
    assert [(one.past, one.present) for one in caches.pairs] == [("state", "next")]
    assert sorted(group.n for group in couple(prepare(whole)).groups) == GONE[form][1]

    dense = prepare(caches.inner(whole))
    coupling = couple(dense, caches=caches.names)
    assert sorted(group.n for group in coupling.groups) == GONE[form][0]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 6, 4)).astype(np.float32)
    shape = [2 if size == "batch" else size for size in STATES[form]]
    for seed in range(3):
        keep, small = random_keep(coupling, seed), dense.clone()
        RemoveChannels(keep, coupling.of(small)).call(small)
        for state in (np.zeros(shape, np.float32), rng.standard_normal(shape).astype(np.float32)):
            given = {"x": x, "state": state}
            found, y = (session(one).run(["y"], given)[0] for one in (small, silence(dense, keep, coupling)))
            np.testing.assert_allclose(found, y, rtol=1e-3, atol=1e-4)
        final = session(caches.closed(small))
        sizes = [2 if size == "batch" else size for size in final.get_inputs()[1].shape]
        before = np.zeros(sizes, np.float32)
        whole_text, last = final.run(None, {"x": x, "state": before})
        first, between = final.run(None, {"x": x[:, :4], "state": before})
        second, end = final.run(None, {"x": x[:, 4:], "state": between})
        np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole_text, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(end, last, rtol=1e-3, atol=1e-5)
