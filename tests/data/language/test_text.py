"""Text files as windows of token ids."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.language.text import decoder, windows
from obs_onnx.data.open_source import open_source
from obs_onnx.data.options import TextReading
from obs_onnx.passes.errors import DataError, MissingRuntimeError, OptionError

IDS = TensorSpec("input_ids", ("batch", "seq"), np.dtype(np.int64))
WORDS = ["[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]


def _tokenizer(folder: Path, special: bool = False) -> Path:
    tokens = {word: {"id": word, "ids": [WORDS.index(word)], "tokens": [word]} for word in ("[CLS]", "[SEP]")}
    parts = [{"SpecialToken": {"id": word, "type_id": 0}} for word in ("[CLS]", "[SEP]")]
    around = {
        "type": "TemplateProcessing",
        "single": [parts[0], {"Sequence": {"id": "A", "type_id": 0}}, parts[1]],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": tokens,
    }
    usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": WORDS.index(word), "content": word, **usual} for word in ("[CLS]", "[SEP]")]
    path = folder / "tokenizer.json"
    short = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    path.write_text(
        json.dumps(
            {
                "version": "1.0",
                "truncation": short,
                "padding": None,
                "added_tokens": added if special else [],
                "normalizer": None,
                "pre_tokenizer": {"type": "WhitespaceSplit"},
                "post_processor": around if special else None,
                "decoder": None,
                "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
            }
        )
    )
    return path


def _text(folder: Path, words: str, name: str = "corpus.txt") -> Path:
    path = folder / name
    path.write_text(" ".join(words))
    return path


def test_windows_of_text(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="needs the package tokenizers")
    _tokenizer(tmp_path)
    found = windows([_text(tmp_path, "abcdabx")], IDS, TextReading(window=3))
    assert_array_equal(found, [[3, 4, 5], [6, 3, 4]])


def test_what_stands_around_a_text_stands_around_each_window(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="needs the package tokenizers")
    reading = TextReading(_tokenizer(tmp_path, special=True), 4)
    assert_array_equal(windows([_text(tmp_path, "abcd")], IDS, reading), [[1, 3, 4, 2], [1, 5, 6, 2]])


def test_text_is_data(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="needs the package tokenizers")
    folder = tmp_path / "texts"
    folder.mkdir()
    reading = TextReading(str(_tokenizer(tmp_path)), 2)
    for name in ("one.txt", "two.md"):
        _text(folder, "abcd", name)
    specs = (IDS, TensorSpec("attention_mask", ("batch", "seq"), np.dtype(np.int64)))
    for path, count in ((folder, 4), (folder / "one.txt", 2)):
        source = open_source(str(path), specs, text=reading)
        assert source.count == count
        assert next(iter(source))["attention_mask"].shape == (count, 2)


def test_the_length_that_the_model_fixes(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="needs the package tokenizers")
    _tokenizer(tmp_path)
    fixed = TensorSpec("input_ids", ("batch", 5), np.dtype(np.int64))
    path = _text(tmp_path, "abcdabcdab")
    assert windows([path], fixed, TextReading()).shape == (2, 5)
    with pytest.raises(OptionError, match="takes 5 tokens"):
        windows([path], fixed, TextReading(window=4))
    with pytest.raises(DataError, match="holds 10 tokens, less than the 128 of one window"):
        windows([path], IDS, TextReading())


def test_mistakes_are_named(tmp_path: Path) -> None:
    path = _text(tmp_path, "abcd")
    with pytest.raises(OptionError, match="no tokenizer for the text"):
        open_source(path, (IDS,))
    with pytest.raises(OptionError, match=r"none\.json: no such tokenizer"):
        open_source(path, (IDS,), text=TextReading("none.json"))
    with pytest.raises(DataError, match="no input of the model takes token ids"):
        open_source(path, (TensorSpec("x", ("N", 3), np.dtype(np.float32)),))


def test_a_file_that_is_no_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="needs the package tokenizers")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json: is no tokenizer\.json"):
        open_source(_text(tmp_path, "abcd"), (IDS,))


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    _tokenizer(tmp_path)
    with pytest.raises(MissingRuntimeError, match=r"pip install 'obs-onnx\[text\]'"):
        open_source(_text(tmp_path, "abcd"), (IDS,))


def test_ids_become_text_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tokenizers", reason="needs obs-onnx[text]")
    decode = decoder(_tokenizer(tmp_path, special=True))
    assert decode is not None
    assert decode(np.array([WORDS.index("[CLS]"), *(WORDS.index(one) for one in "abc")])).split() == [
        "a",
        "b",
        "c",
    ]
    assert decoder(None) is None
    monkeypatch.setattr("obs_onnx.data.language.text.find_spec", lambda name: None)
    assert decoder(tmp_path / "tokenizer.json") is None
