"""onnxruntime-genai loads a smaller model of its own builder's form, and says with it what the model says.

``pip install onnxruntime-genai`` brings the package, best into an environment of its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from decoders import HEAD, HEADS, LAYERS, LONGEST, SHARED, WIDTH, WORDS, decoder, generated, session

from obs_onnx.entrypoints.prune import prune

TEXT, MORE = np.arange(6)[None] * 7 % WORDS, 12


def config() -> dict[str, object]:
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
            "eos_token_id": WORDS,  # none that is ever said
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


@pytest.mark.parametrize("change_caches", [False, True])
@pytest.mark.parametrize("form", ["grouped", "packed"])
def test_a_smaller_model_of_the_builder_speaks(tmp_path: Path, form: str, change_caches: bool) -> None:
    """Heads that go with their caches are the same in all layers, so that the configuration can say them."""
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    onnx.save(decoder(form), before / "model.onnx")
    (before / "genai_config.json").write_text(json.dumps(config()))
    data = {"input_ids": np.random.default_rng(0).integers(0, WORDS, (32, 12))}
    options = {"targets": {"params": 0.8}, "mode": "channels", "effort": "quick", "threads": 1}
    prune(
        before / "model.onnx", calib=data, output=after / "model.onnx", change_caches=change_caches, **options
    )
    if not (after / "genai_config.json").is_file():
        (after / "genai_config.json").write_text(json.dumps(config()))
    shapes = {tuple(one.shape[1:2]) for one in session_of(after).get_inputs() if one.name.startswith("past")}
    if len(shapes) > 1:
        pytest.skip("heads differ from layer to layer, which its configuration cannot say")
    for folder in (before, after):
        expected = generated(session_of(folder), TEXT, MORE, cached=True)
        assert said(folder) == expected[0].tolist()


def session_of(folder: Path):
    return session(onnx.load(folder / "model.onnx"))
