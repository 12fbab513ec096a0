"""Inputs that follow from token ids, as exporters name and shape them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.language.filled_inputs import find_filling
from obs_onnx.data.open_source import open_source
from obs_onnx.data.rows import random_feed
from obs_onnx.passes.errors import DataError

IDS = TensorSpec("input_ids", ("batch", "seq"), np.dtype(np.int64))
TOKENS = np.array([[3, 1, 4, 1], [5, 9, 2, 6]], np.int64)


def _spec(name: str, *shape: int | str | None, dtype: type = np.int64) -> TensorSpec:
    return TensorSpec(name, shape, np.dtype(dtype))


def _filled(*specs: TensorSpec, **given: np.ndarray) -> dict[str, np.ndarray]:
    feed = {"input_ids": TOKENS, **given}
    filling = find_filling((IDS, *specs), feed)
    assert filling is not None
    assert not [spec.name for spec in filling.asked if spec.name not in feed]
    return filling(feed)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (_spec("attention_mask", "batch", "past_sequence_length + 1"), np.ones((2, 4))),
        (_spec("position_ids", "batch", "seq"), [[0, 1, 2, 3]] * 2),
        (_spec("position_ids", "seq"), [0, 1, 2, 3]),
        (_spec("position_ids", 3, "batch", "seq"), [[[0, 1, 2, 3]] * 2] * 3),
        (_spec("cache_position", "seq"), [0, 1, 2, 3]),
        (_spec("token_type_ids", "batch", "seq"), np.zeros((2, 4))),
        (_spec("total_sequence_length", dtype=np.int32), 4),
        (_spec("total_sequence_length", 1, dtype=np.int32), [4]),
        (_spec("seqlens_k", "batch", dtype=np.int32), [3, 3]),
        (_spec("seqlens_k", "batch", 1, dtype=np.int32), [[3], [3]]),
        (_spec("past_sequence_length", 1, dtype=np.int32), [0]),
        (_spec("nonpad_kv_seqlen", "batch"), [4, 4]),
        (_spec("use_cache_branch", 1, dtype=bool), [False]),
        (_spec("num_logits_to_keep"), 0),
    ],
)
def test_kinds(spec: TensorSpec, expected: object) -> None:
    found = _filled(spec)[spec.name]
    assert_array_equal(found, np.array(expected))
    assert found.dtype == spec.dtype


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (("past_key_values.0.key", "batch", 3, "past_sequence_length", 8), (2, 3, 0, 8)),
        (("past_key_values.11.value", "batch_size", 3, "past", 8), (2, 3, 0, 8)),
        (("past_key_0", None, 3, None, 8), (2, 3, 0, 8)),
        (("past_0", 2, "batch", 12, "past_seq_len", 64), (2, 2, 12, 0, 64)),
        (("past_conv.3", "batch", 16, 3), (2, 16, 3)),
        (("past_k_cache_0", "batch", "cache_len", 3, 8), (2, 0, 3, 8)),
    ],
)
def test_an_empty_cache_has_the_sizes_of_the_model(spec: tuple, shape: tuple[int, ...]) -> None:
    one = _spec(*spec, dtype=np.float32)
    assert _filled(one)[one.name].shape == shape


def test_tokens_of_a_cache_in_the_data_count() -> None:
    past = _spec("past_key_values.0.key", "batch", 3, "past", 8, dtype=np.float32)
    specs = (past, _spec("attention_mask", "batch", "total"), _spec("position_ids", "batch", "seq"))
    feed = _filled(*specs, **{past.name: np.zeros((2, 3, 5, 8), np.float32)})
    assert feed["attention_mask"].shape == (2, 9)
    assert_array_equal(feed["position_ids"][0], [5, 6, 7, 8])


def test_positions_skip_what_the_mask_leaves_out() -> None:
    specs = (
        _spec("attention_mask", "batch", "seq"),
        _spec("position_ids", "batch", "seq"),
        _spec("seqlens_k", "batch"),
    )
    feed = _filled(*specs, attention_mask=np.array([[0, 0, 1, 1], [1, 1, 1, 1]]))
    assert_array_equal(feed["position_ids"], [[0, 0, 0, 1], [0, 1, 2, 3]])
    assert_array_equal(feed["seqlens_k"], [1, 3])


def test_a_cache_of_a_fixed_length_is_masked() -> None:
    past = _spec("past_key_values.0.key", "batch", 3, 6, 8, dtype=np.float32)
    feed = _filled(past, _spec("attention_mask", "batch", "total"))
    assert_array_equal(feed["attention_mask"], [[0] * 6 + [1] * 4] * 2)
    written = _filled(past, _spec("attention_mask", "batch", 6), _spec("cache_position", "seq"))
    assert_array_equal(written["attention_mask"], [[1] * 4 + [0] * 2] * 2)
    alone = find_filling((IDS, past), ["input_ids"])
    assert alone is not None
    assert not alone.kinds


@pytest.mark.parametrize("name", ["recurrent_state", "conv_state", "ssm_state"])
def test_a_state_has_no_length_and_begins_at_zero(name: str) -> None:
    state = _spec(f"past_key_values.0.{name}", "batch", 2, 6, 8, dtype=np.float32)
    feed = _filled(state, _spec("attention_mask", "batch", "total"))
    assert_array_equal(feed[state.name], np.zeros((2, 2, 6, 8)))
    assert_array_equal(feed["attention_mask"], np.ones((2, 4)))


def test_a_mask_of_four_axes_is_causal_with_a_cache_alone() -> None:
    mask = _spec("attention_mask", "batch", 1, "seq", "total", dtype=bool)
    past = _spec("past_key_values.0.key", "batch", 3, "past", 8, dtype=np.float32)
    assert_array_equal(_filled(past, mask)["attention_mask"][1, 0], np.tril(np.ones((4, 4), bool)))
    encoder = find_filling((IDS, mask), ["input_ids"])
    assert encoder is not None
    assert not encoder.kinds


def test_what_an_encoder_gave_is_never_made_up() -> None:
    states = _spec("encoder_hidden_states", "batch", "enc", 8, dtype=np.float32)
    cross = _spec("past_key_values.0.encoder.key", "batch", 3, "enc", 8, dtype=np.float32)
    own = _spec("past_key_values.0.decoder.key", "batch", 3, "past", 8, dtype=np.float32)
    masks = _spec("encoder_attention_mask", "batch", "enc")
    filling = find_filling((IDS, states, cross, own, masks), ["input_ids"])
    assert filling is not None
    assert [spec.name for spec in filling.asked] == ["input_ids", states.name, cross.name]
    merged = find_filling((IDS, states, cross, _spec("use_cache_branch", 1, dtype=bool)), ["input_ids"])
    assert merged is not None
    assert [spec.name for spec in merged.asked] == ["input_ids", states.name]
    feed = _filled(states, masks, **{states.name: np.zeros((2, 7, 8), np.float32)})
    assert feed[masks.name].shape == (2, 7)


def test_the_data_says_what_was_filled_in(tmp_path: Path) -> None:
    specs = (
        IDS,
        _spec("attention_mask", "batch", "total"),
        *(_spec(f"past.{k}", "batch", 3, "past", 8, dtype=np.float32) for k in ("key", "value")),
    )
    np.savez(tmp_path / "c.npz", input_ids=np.tile(TOKENS, (8, 1)))
    np.save(tmp_path / "c.npy", np.tile(TOKENS, (8, 1)))
    for given in (tmp_path / "c.npz", tmp_path / "c.npy", [{"input_ids": TOKENS}] * 9, "random:8"):
        source = open_source(given, specs, batch_size=4)
        assert any("past.key and 1 more (empty cache)" in note for note in source.notes), source.notes
        feed = next(iter(source))
        assert set(feed) == {spec.name for spec in specs}
        assert feed["past.key"].shape == (len(feed["input_ids"]), 3, 0, 8)
    assert random_feed(specs)["attention_mask"].shape == random_feed(specs)["input_ids"].shape
    assert random_feed(specs, sizes={"past": 5})["past.key"].shape == (1, 3, 5, 8)


def test_an_input_that_nothing_explains_is_named() -> None:
    specs = (
        IDS,
        _spec("attention_mask", "batch", "total"),
        _spec("pixel_values", "batch", 3, dtype=np.float32),
    )
    with pytest.raises(DataError, match="no array for input 'pixel_values'"):
        open_source({"input_ids": TOKENS}, specs)


def test_other_models_get_nothing_made_up() -> None:
    specs = (_spec("x", "N", 3, dtype=np.float32), _spec("mask", "N", 3))
    with pytest.raises(DataError, match="no array for input 'mask'"):
        open_source({"x": np.zeros((4, 3), np.float32)}, specs)
