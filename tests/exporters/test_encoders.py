"""Encoders and decoders as they are exported: every head, of cross-attention too, and whole runs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from channel_helpers import random_keep
from decoders import session
from encoders import HEAD, HEADS, LAYERS, MODELS, UNITS, WIDTH, feeds

import obs_onnx
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence


def groups(heads: int, attentions: int, towers: int = 1, more: tuple[int, ...] = ()) -> Counter[int]:
    """Groups by size: heads, two widths of each attention, and hidden units."""
    return Counter({HEADS: heads, HEAD: 2 * attentions, UNITS: LAYERS * towers}) + Counter(more)


GROUPS = {
    "bert": groups(LAYERS, LAYERS, more=(WIDTH, 14)),
    "clip": groups(2 * LAYERS, 2 * LAYERS, 2, more=(WIDTH, WIDTH, 16)),
    "whisper encoder": groups(LAYERS, LAYERS, more=(WIDTH,)),  # of the first convolution
    "whisper decoder": groups(2 * LAYERS, 2 * LAYERS, more=(WIDTH,)),
    "t5 encoder": groups(1, LAYERS),  # all layers share the bias of a head
    "t5 decoder": groups(1 + LAYERS, 2 * LAYERS, more=(WIDTH,)),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_head_is_found_and_goes_alone(name):
    dense = prepare(ir.from_proto(MODELS[name]()))
    coupling = couple(dense)
    for seed in range(2):
        keep = random_keep(coupling, seed)
        small = dense.clone()
        RemoveChannels(keep, coupling.of(small)).call(small)
        small, silent = session(small), session(silence(dense, keep, coupling))
        for given in (feeds(name, seed), feeds(name, seed, batch=1, tokens=8)):
            for y, z in zip(small.run(None, given), silent.run(None, given), strict=True):
                np.testing.assert_allclose(y, z, rtol=1e-3, atol=1e-4)
    assert Counter(group.n for group in coupling.groups) == GROUPS[name]


@pytest.mark.parametrize("name", ["t5 decoder"])
def test_a_decoder_with_fewer_tokens_is_pruned_and_proven(name):
    """The table of the embedding, turned, scores the tokens: it is cut once."""
    calib = feeds(name, batch=48)
    calib["input_ids"] %= 30
    dense = ir.from_proto(MODELS[name]())
    found = obs_onnx.prune(
        dense, calib=calib, targets={"params": 0.8}, vocabulary="seen", effort="quick", latency=False
    )
    assert found.report.proof.largest < 1e-3
    assert not found.report.proof.left_out
    assert found.report.notes[0].startswith("vocabulary: 30 of 48 tokens stay")
    before, after = session(dense), session(found.model)
    assert after.run(None, calib)[0].shape == (*before.run(None, calib)[0].shape[:2], 30)
    tables = [value.shape[0] for value in found.model.graph.initializers.values() if value.shape.rank() == 2]
    assert tables.count(30) == 1
