"""Encoders and decoders as one model, and as their files again: smaller ones that fit each other."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_helpers import random_keep
from decoders import session
from whole_models import FILES, Size

from obs_onnx.passes.canonical.canonicalize import plain
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence
from obs_onnx.passes.errors import ModelError
from obs_onnx.passes.interface.joined import PARTS, join, split

SIZE, BATCH, LENGTH, TEXT = Size(), 2, 7, 5
GROUPS = {  # heads and hidden units of two layers: encoder, decoder, cross-attention; widths of residuals
    "Whisper": {4: 6, 8: 12, 32: 3, 48: 4},
    "T5": {4: 4, 8: 12, 32: 1, 48: 4},  # a bias for each distance is shared by the layers
    "BART": {4: 6, 8: 12, 32: 1, 48: 4},
}


def read(family: str) -> dict[str, ir.Model]:
    return {name: plain(ir.from_proto(proto)) for name, proto in FILES[family](SIZE).items()}


def feeds(family: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the encoder takes, and the tokens of the decoder."""
    rng = np.random.default_rng(0)
    text = rng.integers(0, SIZE.words, (BATCH, TEXT))
    if family == "Whisper":
        return {"input_features": rng.standard_normal((BATCH, SIZE.mels, 24)).astype(np.float32)}, text
    mask = np.ones((BATCH, LENGTH), np.int64)
    mask[1, -2:] = 0
    return {"input_ids": rng.integers(0, SIZE.words, (BATCH, LENGTH)), "attention_mask": mask}, text


def step_by_step(files: dict[str, ir.Model], given: dict[str, np.ndarray], text: np.ndarray) -> np.ndarray:
    """Logits behind each token but the first two, which the caches of the files lead to."""
    encoder, first, later = (session(files[name]) for name in files)
    (states,) = encoder.run(None, given)
    mask = {"encoder_attention_mask": given["attention_mask"]} if "attention_mask" in given else {}
    found = run(first, {"input_ids": text[:, :2], "encoder_hidden_states": states, **mask})
    caches, logits = found, []
    for place in range(2, text.shape[1]):
        past = {name.replace("present", "past_key_values"): y for name, y in caches.items() if "." in name}
        new = run(later, {"input_ids": text[:, place : place + 1], **past, **mask})
        caches = {**caches, **new}
        logits.append(new["logits"])
    return np.concatenate(logits, axis=1)


def run(given, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    wanted = {one.name for one in given.get_inputs()}
    names = [one.name for one in given.get_outputs()]
    found = given.run(None, {name: x for name, x in feed.items() if name in wanted})
    return dict(zip(names, found, strict=True))


def at_once(files: dict[str, ir.Model], given: dict[str, np.ndarray], text: np.ndarray) -> np.ndarray:
    encoder, first, _ = (session(files[name]) for name in files)
    states = encoder.run(None, given)[0]
    mask = {"encoder_attention_mask": given["attention_mask"]} if "attention_mask" in given else {}
    return run(first, {"input_ids": text, "encoder_hidden_states": states, **mask})["logits"]


@pytest.mark.parametrize("family", FILES)
def test_files_that_are_cut_together_fit_each_other(family: str) -> None:
    """Step by step the smaller files give what they give at once, and what the silenced model gives."""
    files = read(family)
    joined = join(files)
    dense = prepare(joined)
    coupling = couple(dense)
    counts = [group.n for group in coupling.groups]
    assert {n: counts.count(n) for n in counts} == GROUPS[family]
    given, text = feeds(family)
    for seed in range(1):
        keep, small = random_keep(coupling, seed), dense.clone()
        RemoveChannels(keep).call(small)
        cut, silent = split(small), split(silence(dense, keep))
        for name, one in cut.items():
            onnx.checker.check_model(ir.to_proto(one), full_check=True)
            before = files[name]
            for mine, theirs in (
                (one.graph.inputs, before.graph.inputs),
                (one.graph.outputs, before.graph.outputs),
            ):
                assert [value.name for value in mine] == [value.name for value in theirs]
        expected = at_once(silent, given, text)
        np.testing.assert_allclose(at_once(cut, given, text), expected, rtol=1e-3, atol=1e-4)
        found = step_by_step(cut, given, text)
        np.testing.assert_allclose(found, expected[:, 2:], rtol=1e-3, atol=1e-4)


def test_sizes_that_are_left_stand_in_the_files() -> None:
    files = read("BART")
    dense = prepare(join(files))
    coupling = couple(dense)
    heads = next(
        g
        for g in coupling.groups
        if "decoder_model.decoder.0.self.k.weight" in {s.initializer for s in g.sites} and g.n == 4
    )
    small = dense.clone()
    RemoveChannels({heads.id: np.array([True, False, True, True])}).call(small)
    cut = split(small)
    value = next(v for v in cut["decoder_with_past_model"].graph.inputs if v.name.endswith("0.decoder.key"))
    assert list(value.shape) == ["batch_size", 3, "past_length", SIZE.head]
    value = next(v for v in cut["decoder_model"].graph.outputs if v.name == "present.0.decoder.value")
    assert list(value.shape) == ["batch_size", 3, "total_length", SIZE.head]
    assert list(cut["encoder_model"].graph.outputs[0].shape) == [
        "batch_size",
        "encoder_sequence_length",
        SIZE.width,
    ]


def test_names_of_inputs_that_several_files_have() -> None:
    joined = join(read("T5"))
    assert [value.name for value in joined.graph.inputs] == [
        "encoder_model.input_ids",
        "attention_mask",
        "decoder_model.input_ids",
        "decoder_with_past_model.input_ids",
    ]
    assert [value.name for value in joined.graph.outputs] == [
        "decoder_model.logits",
        "decoder_with_past_model.logits",
    ]


def test_weights_that_files_share_are_one() -> None:
    files = read("BART")
    names = set(join(files).graph.initializers)
    assert "decoder_model.decoder.0.fc1.weight" in names
    assert "decoder_with_past_model.decoder.0.fc1.weight" not in names


def test_files_that_do_not_belong_together(make_model) -> None:
    one = make_model(
        "g (float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }", {"w": np.eye(4, 3, dtype="f4")}
    )
    two = make_model("g (float[N,4] z) => (float[N,4] v) { v = Relu(z) }", {})
    with pytest.raises(ModelError, match="b takes nothing that a file before it gives"):
        join({"a": one, "b": two})
    with pytest.raises(ModelError, match="two files at least"):
        join({"a": one})
    with pytest.raises(ModelError, match="was not joined of several files"):
        split(one)
    two.opset_imports[""] = 15
    with pytest.raises(ModelError, match=r"different opsets \(a: 18, b: 15\)"):
        join({"a": one, "b": two})


def test_a_file_whose_output_is_gone_cannot_be_cut_out() -> None:
    joined = join(read("BART"))
    assert PARTS in joined.metadata_props
    last = joined.graph.outputs.pop()
    node = last.producer()
    joined.graph.remove(node, safe=True)
    with pytest.raises(ModelError, match="nothing gives logits of decoder_with_past_model any more"):
        split(joined)
