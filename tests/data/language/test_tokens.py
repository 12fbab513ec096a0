"""Tokens that stay: read, seen, and data in terms of them."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.language.tokens import Tokens, TokenSource, listed_tokens, seen_tokens
from obs_onnx.data.open_source import open_source
from obs_onnx.passes.errors import DataError

SPECS = [TensorSpec("input_ids", ("N", "T"), np.dtype(np.int64))]
IDS = np.array([[2, 5, 9], [9, 9, 2], [5, 5, 5]])
KEPT = np.array([2, 5, 9])


def test_ids_are_read_one_a_line(tmp_path):
    path = tmp_path / "keep.txt"
    path.write_text("3\n\n 17 # a word\n3\n")
    assert listed_tokens(path) == {3, 17}
    path.write_text("3\nthe\n")
    with pytest.raises(DataError, match=r"keep\.txt: line 2 is no token id"):
        listed_tokens(path)
    path.write_text("# none\n")
    with pytest.raises(DataError, match="lists no token"):
        listed_tokens(path)
    with pytest.raises(DataError, match="cannot be read"):
        listed_tokens(tmp_path / "other.txt")


def test_data_is_renumbered():
    inner = open_source({"input_ids": IDS}, SPECS, batch_size=2)
    assert seen_tokens(inner, ["input_ids"]) == {2, 5, 9}
    source = TokenSource(inner, Tokens(("input_ids",), 12, KEPT))
    feeds = [feed["input_ids"].tolist() for feed in source]
    assert feeds == [[[0, 1, 2], [2, 2, 0]], [[1, 1, 1]]]
    assert [f["input_ids"].tolist() for f in source.rebatch(3)] == [[[0, 1, 2], [2, 2, 0], [1, 1, 1]]]
    assert (source.count, source.unit, source.has_labels) == (3, "samples", False)
    assert source.limit(1).count == 1
    fit, held = source.split(0.34, 0)
    assert fit.count + held.count == 3
    assert next(iter(held))["input_ids"].max() <= 2


def test_what_went_is_unknown_or_refused():
    feed = {"input_ids": np.array([[2, 7]])}
    with pytest.raises(DataError, match="data: token 7 in input input_ids is none of those that stay"):
        Tokens(("input_ids",), 12, KEPT).renumbered(feed, "data")
    assert Tokens(("input_ids",), 12, KEPT, 5).renumbered(feed, "data")["input_ids"].tolist() == [[0, 1]]
    with pytest.raises(DataError, match="outside of the 12 tokens"):
        Tokens(("input_ids",), 12, KEPT).renumbered({"input_ids": np.array([[12]])}, "data")
