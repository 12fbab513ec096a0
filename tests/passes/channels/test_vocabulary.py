"""Fewer tokens: scores of those that stay are what they were."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from decoders import FORMS, WORDS, decoder, feed, session
from nets import Net
from onnx import helper, numpy_helper

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.vocabulary import cut_vocabulary, find_vocabulary
from obs_onnx.passes.errors import ModelError
from obs_onnx.passes.ops.quantized.blocks import packed

KEPT = np.array([0, 3, 4, 9, 17, 40, 41, 63])


@pytest.mark.parametrize("form", FORMS)
def test_a_decoder_scores_the_tokens_that_stay_as_before(form):
    dense = ir.from_proto(decoder(form))
    small = cut_vocabulary(dense, ["input_ids"], KEPT)
    places = np.random.default_rng(0).integers(0, len(KEPT), (2, 5))
    before, after = session(dense), session(small)
    expected = before.run(["logits"], feed(before, KEPT[places]))[0]
    found = after.run(["logits"], feed(after, places))[0]
    np.testing.assert_allclose(found, expected[..., KEPT], rtol=1e-5, atol=1e-5)
    assert tuple(small.graph.initializers["embed.weight"].shape) == (len(KEPT), 32)
    assert tuple(small.graph.initializers["logits.weight"].shape) == (32, len(KEPT))
    assert [value.name for value in small.graph.outputs] == [value.name for value in dense.graph.outputs]
    assert small.graph.outputs[0].shape[-1] == len(KEPT)
    names = {node.op_type for node in dense.graph} | {"Constant"}
    assert {node.op_type for node in small.graph} <= names


def model(g: Net, outputs: str = "logits", width: int = WORDS, inputs: str = "input_ids"):
    weights = [numpy_helper.from_array(array, name) for name, array in g.tensors.items()]
    shapes = {"logits": ["N", "T", width], "mask": ["N", "T"], "end": ["N"]}
    made = {"logits": 1, "mask": 9, "end": 7}
    graph = helper.make_graph(
        g.nodes,
        "g",
        [helper.make_tensor_value_info(name, 7, ["N", "T"]) for name in inputs.split()],
        [helper.make_tensor_value_info(name, made[name], shapes[name]) for name in outputs.split()],
        weights,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def tied(words: int = WORDS, width: int = 8) -> ir.Model:
    """One table for the embedding and, turned, for the scores, which are capped and have a bias."""
    g = Net(0)
    table = g.weight("table", words, width)
    x = g.op("Relu", g.op("Gather", table, g.op("Cast", "input_ids", to=6)))
    y = g.op("MatMul", x, g.op("Transpose", table, perm=[1, 0]))
    y = g.op("Add", y, g.weight("bias", words, fan_in=2))
    g.op("Mul", g.op("Tanh", y), g.constant("cap", 3.0), name="logits")
    return model(g, width=words)


@pytest.mark.parametrize("words", [WORDS, 600])
def test_one_table_for_embedding_and_scores_is_cut_once(words):
    """Small tables are copied for each use in between, larger ones are shared."""
    dense = tied(words)
    small = cut_vocabulary(dense, ["input_ids"], KEPT)
    places = np.random.default_rng(0).integers(0, len(KEPT), (3, 4))
    expected = session(dense).run(None, {"input_ids": KEPT[places]})[0]
    found = session(small).run(None, {"input_ids": places})[0]
    np.testing.assert_allclose(found, expected[..., KEPT], rtol=1e-5, atol=1e-6)
    shapes = {name: tuple(value.shape) for name, value in small.graph.initializers.items()}
    assert shapes == {"table": (8, 8), "bias": (8,), "cap": ()}


def test_other_readers_of_the_ids_get_those_of_before():
    """A padding mask, and the place of the largest token; both count the old ids."""
    g = Net(0)
    x = g.op("Gather", g.weight("table", WORDS, 8), "input_ids")
    g.op("Not", g.op("Equal", "input_ids", g.constant("pad", 9, np.int64)), name="mask")
    g.op("ArgMax", g.op("Abs", "input_ids"), axis=-1, keepdims=0, name="end")
    g.op("MatMul", x, g.weight("head", 8, WORDS), name="logits")
    dense = model(g, "logits mask end")
    small = cut_vocabulary(dense, ["input_ids"], KEPT)
    places = np.array([[0, 3, 7], [3, 3, 1]])
    expected = session(dense).run(None, {"input_ids": KEPT[places]})
    found = session(small).run(None, {"input_ids": places})
    np.testing.assert_allclose(found[0], expected[0][..., KEPT], rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not expected[1].all()


def test_a_table_in_blocks_loses_rows():
    g, rng = Net(0), np.random.default_rng(0)
    g.constant("table", packed(rng.integers(0, 16, (WORDS, 32)).astype(np.uint8), 4), np.uint8)
    g.constant("scales", rng.uniform(0.1, 1, (WORDS, 2)))
    g.constant("zeros", packed(rng.integers(0, 16, (WORDS, 2)).astype(np.uint8), 4), np.uint8)
    inputs = ["table", "input_ids", "scales", "zeros"]
    x = g.op("GatherBlockQuantized", *inputs, domain="com.microsoft", bits=4, block_size=16)
    g.op("MatMul", x, g.weight("head", 32, WORDS), name="logits")
    dense = model(g)
    small = cut_vocabulary(dense, ["input_ids"], KEPT)
    places = rng.integers(0, len(KEPT), (3, 4))
    expected = session(dense).run(None, {"input_ids": KEPT[places]})[0]
    found = session(small).run(None, {"input_ids": places})[0]
    np.testing.assert_allclose(found, expected[..., KEPT], rtol=1e-5, atol=1e-5)


def test_an_encoder_without_scores_loses_rows_alone():
    g = Net(0)
    x = g.op("Gather", g.weight("table", WORDS, 8), "input_ids")
    g.op("MatMul", x, g.weight("head", 8, 5), name="logits")
    dense = model(g, width=5)
    assert find_vocabulary(prepare(dense, canonical=False), ["input_ids"]).scores == {}
    small = cut_vocabulary(dense, ["input_ids"], KEPT)
    places = np.random.default_rng(0).integers(0, len(KEPT), (3, 4))
    expected = session(dense).run(None, {"input_ids": KEPT[places]})[0]
    np.testing.assert_array_equal(session(small).run(None, {"input_ids": places})[0], expected)


def test_what_keeps_tokens_is_named():
    g = Net(0)
    x = g.op("Gather", g.weight("table", WORDS, 8), "input_ids")
    y = g.op("MatMul", x, g.weight("head", 8, WORDS))
    g.op("CumSum", y, g.constant("axis", 2, np.int64), name="logits")
    with pytest.raises(ModelError, match=r"the vocabulary cannot be cut: node .*CumSum"):
        cut_vocabulary(model(g), ["input_ids"], KEPT)
    with pytest.raises(ModelError, match="no input of token ids chooses rows"):
        cut_vocabulary(model(g), ["other"], KEPT)
    g = Net(0)
    x = g.op("Gather", g.weight("table", WORDS, 8), "input_ids")
    x = g.op("Add", x, g.op("Gather", g.weight("other", 70, 8), "input_ids"))
    g.op("MatMul", x, g.weight("head", 8, WORDS), name="logits")
    with pytest.raises(ModelError, match="differ in the number of rows"):
        cut_vocabulary(model(g), ["input_ids"], KEPT)


@pytest.mark.parametrize("filled", [WORDS - 3, WORDS + 5])
def test_scores_that_are_filled_up_to_another_size_are_cut_as_well(filled):
    g = Net(0)
    x = g.op("Gather", g.weight("table", WORDS, 8), "input_ids")
    g.op("MatMul", x, g.weight("head", 8, filled), name="logits")
    dense = model(g, width=filled)
    small = cut_vocabulary(dense, ["input_ids"], KEPT)
    places = np.random.default_rng(0).integers(0, len(KEPT), (3, 4))
    expected = session(dense).run(None, {"input_ids": KEPT[places]})[0]
    found = session(small).run(None, {"input_ids": places})[0]
    np.testing.assert_allclose(found, expected[..., KEPT[filled > KEPT]], rtol=1e-5, atol=1e-6)
    assert small.graph.outputs[0].shape[-1] == found.shape[-1] == len(KEPT) - (filled < WORDS)


def test_several_inputs_count_the_same_tokens():
    """An encoder and a decoder in one file, with tables of their own."""
    g = Net(0)
    x = g.op("Gather", g.weight("table", WORDS, 8), "input_ids")
    y = g.op("Gather", g.weight("other", WORDS, 8), "decoder_input_ids")
    y = g.op("Add", y, g.op("ReduceMean", x, axes=[1], keepdims=1))
    g.op("MatMul", y, g.weight("head", 8, WORDS), name="logits")
    dense = model(g, inputs="input_ids decoder_input_ids")
    small = cut_vocabulary(dense, ["input_ids", "decoder_input_ids"], KEPT)
    places = np.random.default_rng(0).integers(0, len(KEPT), (3, 4))
    names = ("input_ids", "decoder_input_ids")
    expected = session(dense).run(None, dict.fromkeys(names, KEPT[places]))[0]
    found = session(small).run(None, dict.fromkeys(names, places))[0]
    np.testing.assert_allclose(found, expected[..., KEPT], rtol=1e-5, atol=1e-6)
