"""Pruning with a part of the vocabulary, from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from decoders import HEAD, LAYERS, SHARED, WORDS, decoder, feed, generated, session

import obs_onnx
from obs_onnx.passes.errors import DataError, ModelError, OptionError

QUICK = {"effort": "quick", "seed": 0, "latency": False}
KEPT = np.array([1, 2, 8, 9, 30, 31, 50, 63])


def data(tokens=12, count=48, kept=KEPT):
    rng = np.random.default_rng(0)
    caches = {
        f"past_key_values.{i}.{kind}": np.zeros((count, SHARED, 0, HEAD), np.float32)
        for i in range(LAYERS)
        for kind in ("key", "value")
    }
    ids = kept[rng.integers(0, len(kept), (count, tokens))]
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), **caches}


def written(folder: Path, tokenizer=None) -> Path:
    folder.mkdir()
    onnx.save(decoder("packed"), folder / "model.onnx")
    if tokenizer is not None:
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder / "model.onnx"


def words() -> dict:
    vocab = {f"w{i}": i for i in range(WORDS)}
    special = {"id": 5, "content": "w5", "special": True}
    return {"model": {"type": "WordLevel", "unk_token": "w0", "vocab": vocab}, "added_tokens": [special]}


def test_tokens_that_are_seen_stay_and_generate_as_before(tmp_path):
    path, out = written(tmp_path / "in"), tmp_path / "small.onnx"
    found = obs_onnx.prune(path, calib=data(), targets={"error": 0}, vocabulary="seen", output=out, **QUICK)
    assert found.report.notes[0].startswith("vocabulary: 8 of 64 tokens stay, ")
    assert "ids of input_ids and the scores of logits count the tokens that stay" in found.report.notes[1]
    assert "equal those of the model as it came in" in found.report.notes[2]
    record = json.loads(out.with_suffix(".vocabulary.json").read_text())
    assert record["ids"] == {str(old): new for new, old in enumerate(KEPT)}
    assert (record["inputs"], record["outputs"], record["size"]) == (["input_ids"], ["logits"], WORDS)
    dense, small = session(onnx.load(path)), session(onnx.load(out))
    places = np.array([[0, 3, 7], [5, 5, 1]])
    expected = dense.run(["logits"], feed(dense, KEPT[places]))[0][..., KEPT]
    np.testing.assert_allclose(small.run(["logits"], feed(small, places))[0], expected, rtol=1e-5, atol=1e-6)
    assert found.report.before.parameters < sum(
        v.size for v in map(onnx_array, onnx.load(path).graph.initializer)
    )


def onnx_array(tensor: onnx.TensorProto) -> np.ndarray:
    return onnx.numpy_helper.to_array(tensor)


def test_a_tokenizer_comes_along_and_names_what_it_needs(tmp_path):
    path, keep = written(tmp_path / "in", words()), tmp_path / "keep.txt"
    keep.write_text("\n".join(map(str, KEPT)))
    out = tmp_path / "small.onnx"
    calib = data(kept=np.append(KEPT, 40))  # what is not listed is unknown
    found = obs_onnx.prune(
        path, calib=calib, targets={"params": 0.8}, vocabulary=str(keep), output=out, **QUICK
    )
    assert (
        "10 of 64 tokens stay (2 of them because the tokenizer or a configuration needs them)"
        in found.report.notes[0]
    )
    new = json.loads((tmp_path / "tokenizer.json").read_text())
    assert set(new["model"]["vocab"]) == {f"w{i}" for i in (0, 5, *KEPT)}
    assert sorted(new["model"]["vocab"].values()) == list(range(10))
    assert new["added_tokens"][0]["id"] == 3
    assert json.loads((tmp_path / "in" / "tokenizer.json").read_text()) == words()
    assert found.report.proof.largest < 1e-3


def test_configurations_name_tokens_that_stay(tmp_path):
    path, out = written(tmp_path / "in"), tmp_path / "small.onnx"
    sizes = {"head_size": HEAD, "num_attention_heads": 6, "num_key_value_heads": SHARED}
    config = {"model": {"decoder": sizes, "vocab_size": WORDS, "eos_token_id": [9, 40], "pad_token_id": 1}}
    (tmp_path / "in" / "genai_config.json").write_text(json.dumps({**config, "type": "x"}))
    obs_onnx.prune(path, calib=data(), targets={"error": 0}, vocabulary="seen", output=out, **QUICK)
    kept = sorted({*KEPT.tolist(), 40})
    found = json.loads((tmp_path / "genai_config.json").read_text())
    ends = [kept.index(9), kept.index(40)]
    new = {"decoder": sizes, "vocab_size": len(kept), "eos_token_id": ends, "pad_token_id": 0}
    assert found == {"model": new, "type": "x"}


def test_caches_and_replay_go_along(tmp_path):
    path, out = written(tmp_path / "in"), tmp_path / "small.onnx"
    options = {"targets": {"params": 0.7}, "vocabulary": "seen", "change_caches": True, **QUICK}
    found = obs_onnx.prune(path, calib=data(), compensate=False, output=out, **options)
    file = json.loads(out.with_suffix(".keep.json").read_text())
    tokens = {"inputs": ["input_ids"], "outputs": ["logits"], "size": WORDS, "kept": KEPT.tolist()}
    assert file["vocabulary"] == found.keep["vocabulary"] == tokens
    assert file["caches"]
    again = obs_onnx.replay(path, file, tmp_path / "again.onnx", calib=data())
    assert "equal those of the model with the channels silenced" in again.notes[0]
    runs = [session(one) for one in (found.model, again.model)]
    start = np.arange(8).reshape(2, 4)
    first, second = (generated(run, start, 6, True) for run in runs)
    assert np.array_equal(first, second)
    assert np.array_equal(first, generated(runs[0], start, 6, False))
    written_ids = [(tmp_path / f"{name}.vocabulary.json").read_text() for name in ("small", "again")]
    assert written_ids[0] == written_ids[1]
    for wrong in ([], {**tokens, "inputs": 3}, {**tokens, "kept": ["a"]}, {"inputs": ["a"], "size": 4}):
        with pytest.raises(DataError, match=r"is no keep\.json"):
            obs_onnx.replay(path, {**file, "vocabulary": wrong}, tmp_path / "third.onnx", calib=data())


def test_what_does_not_fit_is_refused(tmp_path):
    path, keep = written(tmp_path / "in"), tmp_path / "keep.txt"
    given = {"calib": data(), "vocabulary": str(keep), "output": tmp_path / "out.onnx", **QUICK}
    keep.write_text("1\n2\n")
    with pytest.raises(DataError, match=r"token (8|50) in input input_ids is none of those that stay"):
        obs_onnx.prune(path, **given)
    keep.write_text("64\n")
    with pytest.raises(DataError, match="the model has 64 tokens, none is 64"):
        obs_onnx.prune(path, **given)
    with pytest.raises(OptionError, match="finetune_data counts all tokens"):
        obs_onnx.prune(path, finetune=3, finetune_data=data(), **given)
    keep.write_text("1\n2\n")
    (tmp_path / "in" / "tokenizer.json").write_text("[]")
    with pytest.raises(DataError, match=r"tokenizer\.json: is no tokenizer\.json"):
        obs_onnx.prune(path, **given)
    assert not (tmp_path / "out.onnx").exists()


def test_a_model_without_tokens_has_no_vocabulary(make_model):
    model = make_model(
        "g (float[N,4] x) => (float[N,3] y) { h = MatMul(x, a) y = MatMul(h, b) }",
        {"a": np.ones((4, 5), np.float32), "b": np.ones((5, 3), np.float32)},
    )
    with pytest.raises(ModelError, match="no input of token ids chooses rows"):
        obs_onnx.prune(model, calib={"x": np.ones((8, 4), np.float32)}, vocabulary="seen", **QUICK)
