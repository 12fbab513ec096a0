"""onnxruntime-genai loads a smaller model of its own builder's form, and says with it what the model says.

``pip install onnxruntime-genai`` brings the package, best into an environment of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from decoders import HEAD, HEADS, LAYERS, LONGEST, SHARED, WIDTH, WORDS, decoder, generated, session

from obs_onnx.entrypoints.prune import prune
from obs_onnx.entrypoints.replay import replay
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.keep_file import keep_file
from obs_onnx.passes.interface.caches import Caches, find_caches

TEXT, MORE, END = np.arange(6)[None] * 7 % WORDS, 12, WORDS - 1


def config() -> dict[str, Any]:
    """What the builder writes beside a model."""
    return {
        "model": {
            "bos_token_id": 1,
            "context_length": LONGEST,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": "model.onnx",
                "head_size": HEAD,
                "hidden_size": WIDTH,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
                "num_attention_heads": HEADS,
                "num_hidden_layers": LAYERS,
                "num_key_value_heads": SHARED,
            },
            "eos_token_id": END,
            "pad_token_id": 0,
            "type": "llama",
            "vocab_size": WORDS,
        },
        "search": {
            "do_sample": False,
            "max_length": LONGEST,
            "num_beams": 1,
            "past_present_share_buffer": False,
        },
    }


def said(folder: Path) -> list[int]:
    """Most probable tokens behind the text, as the package generates them."""
    genai = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    model = genai.Model(str(folder))
    params = genai.GeneratorParams(model)
    params.set_search_options(do_sample=False, max_length=TEXT.shape[1] + MORE)
    generator = genai.Generator(model, params)
    generator.append_tokens(TEXT.astype(np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)][TEXT.shape[1] :]


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """A folder for the model and its configuration, beside one for the smaller model."""
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    (tmp_path / "before" / "genai_config.json").write_text(json.dumps(config()))
    return tmp_path / "before"


def check(*folders: Path) -> None:
    """What the package says is what the model says, up to the end of the text."""
    for folder in folders:
        given = session(onnx.load(folder / "model.onnx"))
        expected = generated(given, TEXT, MORE, cached=True)[0].tolist()
        if END in expected:
            expected = expected[: expected.index(END)]
        found = said(folder)
        assert found[: len(expected)] == expected
        assert len(found) >= min(len(expected), MORE)


@pytest.mark.parametrize("form", ["grouped", "packed"])
def test_a_smaller_model_of_the_builder_speaks(before: Path, form: str) -> None:
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    after = before.parent / "after"
    onnx.save(decoder(form), before / "model.onnx")
    data = {"input_ids": np.random.default_rng(0).integers(0, WORDS, (32, 12))}
    options = {"targets": {"params": 0.8}, "mode": "channels", "effort": "quick", "threads": 1}
    prune(before / "model.onnx", calib=data, output=after / "model.onnx", **options)
    (after / "genai_config.json").write_text(json.dumps(config()))
    check(before, after)


@pytest.mark.parametrize("form", ["grouped", "packed"])
def test_caches_with_fewer_heads_in_all_layers(before: Path, form: str) -> None:
    """Heads are as many in all layers, so that the configuration beside the result says them."""
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    after, proto = before.parent / "after", decoder(form)
    onnx.save(proto, before / "model.onnx")
    whole = ir.from_proto(proto)
    caches = Caches(whole, find_caches(whole))
    coupling = couple(prepare(caches.inner(whole)), caches=caches.names)
    keep = {group.id: np.arange(SHARED) != 1 for group in coupling.groups if group.n == SHARED}
    assert len(keep) == LAYERS
    replay(before / "model.onnx", keep_file(caches.inner(whole), coupling, keep), output=after / "model.onnx")
    told = json.loads((after / "genai_config.json").read_text())
    assert told["model"]["decoder"]["num_key_value_heads"] == SHARED - 1
    check(before, after)
