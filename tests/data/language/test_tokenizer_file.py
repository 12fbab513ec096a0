"""A tokenizer.json with fewer tokens splits text that has only these as before."""

from __future__ import annotations

import json

import pytest

from obs_onnx.data.language.tokenizer_file import fewer_tokens, needed_tokens, unknown_token

LETTERS = {letter: i for i, letter in enumerate("abcdefgh ")}
ADDED = [{"id": 40, "content": "<s>", "special": True}, {"id": 41, "content": "<x>", "special": False}]
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
ADDED = [{**one, **FLAGS} for one in ADDED]


def bpe(**more):
    pieces = ["ab", "abc", "de", "def", "abcdef", "gh"]
    vocab = {**LETTERS, **{piece: 20 + i for i, piece in enumerate(pieces)}}
    merges = ["a b", ["ab", "c"], "d e", "de f", "abc def", "g h"]
    model = {"type": "BPE", "vocab": vocab, "merges": merges, "unk_token": None, **more}
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [40], "tokens": ["<s>"]}},
    }
    return {
        "version": "1.0",
        "model": model,
        "added_tokens": ADDED,
        "post_processor": {"type": "Sequence", "processors": [template]},
        "padding": None,
    }


def places(kept):
    return {old: new for new, old in enumerate(sorted(kept))}


def test_a_joined_piece_needs_its_parts():
    needed = needed_tokens(bpe(), {24})
    assert needed == {*LETTERS.values(), 20, 21, 22, 23, 24, 40}
    found = fewer_tokens(bpe(), places(needed))
    assert "gh" not in found["model"]["vocab"]
    assert found["model"]["merges"] == ["a b", ["ab", "c"], "d e", "de f", "abc def"]
    assert [one["content"] for one in found["added_tokens"]] == ["<s>"]
    assert found["post_processor"]["processors"][0]["special_tokens"]["<s>"]["ids"] == [places(needed)[40]]
    assert sorted({*found["model"]["vocab"].values(), found["added_tokens"][0]["id"]}) == list(range(15))


def test_characters_may_go_where_something_stands_for_unknown_ones():
    assert needed_tokens(bpe(unk_token="h"), {20}) == {0, 1, 7, 20, 40}
    assert unknown_token(bpe(unk_token="h")) == 7
    fallback = bpe(byte_fallback=True)
    fallback["model"]["vocab"]["<0x0A>"] = 30
    assert needed_tokens(fallback, {20}) == {0, 1, 20, 30, 40}


def test_pieces_of_a_unigram_are_a_list():
    vocab = [["<unk>", 0.0], ["a", -1.0], ["b", -2.0], ["ab", -1.5]]
    file = {"model": {"type": "Unigram", "unk_id": 0, "vocab": vocab}, "added_tokens": []}
    assert needed_tokens(file, {3}) == {0, 3}
    found = fewer_tokens(file, {0: 0, 3: 1})
    assert found["model"] == {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["ab", -1.5]]}
    late = {"model": {"type": "Unigram", "unk_id": 1, "vocab": vocab}, "added_tokens": []}
    assert fewer_tokens(late, {1: 1, 3: 0})["model"]["vocab"] == [["ab", -1.5], ["a", -1.0]]
    assert "first tokens" in fewer_tokens(file, {0: 1, 3: 2})


def test_words_and_what_stands_around_them():
    vocab = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "one": 4, "two": 5, "##s": 6}
    file = {
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": vocab},
        "added_tokens": [],
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "padding": {"pad_id": 0, "pad_token": "[PAD]"},
    }
    assert needed_tokens(file, {5}) == {0, 1, 2, 3, 5}
    found = fewer_tokens(file, places({0, 1, 2, 3, 5}))
    assert found["model"]["vocab"]["two"] == 4
    assert found["post_processor"]["sep"] == ["[SEP]", 3]
    assert found["padding"]["pad_id"] == 0
    assert (
        fewer_tokens({"model": {"type": "Other", "vocab": {}}}, {})
        == "a tokenizer of type Other is not known"
    )


def test_text_is_split_as_before():
    tokenizers = pytest.importorskip("tokenizers", reason="needs the package tokenizers")
    file = bpe()
    file["model"]["merges"][1] = "ab c"
    text = "abcdef de fab abcabc"
    old = tokenizers.Tokenizer.from_str(json.dumps(file))
    used = set(old.encode(text).ids)
    assert 25 not in used
    kept = places(needed_tokens(file, used))
    new = tokenizers.Tokenizer.from_str(json.dumps(fewer_tokens(file, kept)))
    assert new.encode(text).ids == [kept[one] for one in old.encode(text).ids]
    assert new.encode("gh").tokens == ["<s>", "g", "h"]
