"""Samples whose class changed: the surest first, found again in the data."""

from __future__ import annotations

import base64
from dataclasses import replace

import numpy as np
import pytest

from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.open_source import open_source
from obs_onnx.evaluation.changed_samples import Changed, ChangedClasses, shown_samples
from obs_onnx.evaluation.measures.class_scores import ClassScores

SCORES = ClassScores("y", probabilities=True, alone=True)


def changed(
    dense: list[list[float]], small: list[list[float]], batch: int, scores: ClassScores | None = SCORES
):
    classes = ChangedClasses(scores)
    for start in range(0, len(dense), batch):
        part = slice(start, start + batch)
        classes.add({"y": np.array(small[part])}, {"y": np.array(dense[part])})
    return classes.found


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_those_that_the_reference_was_surest_of_come_first(batch: int) -> None:
    dense = [[0.6, 0.4], [0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]
    small = [[0.4, 0.6], [0.2, 0.8], [0.45, 0.55], [0.3, 0.7]]
    first, second = changed(dense, small, batch)
    assert (first.position, first.before, first.after) == (2, 0, 1)
    assert (first.sure_before, first.sure_after) == pytest.approx((0.8, 0.55))
    assert second.position == 0


def test_of_logits_it_is_their_softmax() -> None:
    (one,) = changed([[2.0, 0.0]], [[0.0, 1.0]], 1, replace(SCORES, probabilities=False))
    assert (one.sure_before, one.sure_after) == pytest.approx((1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-1))))


def test_eight_at_most_and_none_without_a_row_for_each_sample() -> None:
    dense, small = [[1.0, 0.0]] * 20, [[0.0, 1.0]] * 20
    assert [one.position for one in changed(dense, small, 3)] == list(range(8))
    assert changed(dense, small, 3, None) == ()
    assert changed(dense, small, 3, replace(SCORES, single=False)) == ()


def spec(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, shape, np.dtype(np.float32))


def test_they_are_found_again_and_shown() -> None:
    images = np.arange(5 * 3 * 8 * 8, dtype=np.float32).reshape(5, 3, 8, 8)
    rows = np.arange(5 * 30, dtype=np.float32).reshape(5, 30)
    specs = [spec("image", "N", 3, 8, 8), spec("row", "N", 30)]
    source = open_source({"image": images, "row": rows, "labels": np.arange(5)}, specs, batch_size=2)
    three, one = shown_samples(source, [Changed(3, 1, 2, 0.9, 0.5), Changed(1, 0, 2, 0.6, 0.5)])
    assert (three.sample, three.before, three.after, three.label) == (3, 1, 2, 3)
    assert one.sample == 1
    assert base64.b64decode(three.pictures["image"]).startswith(b"\x89PNG")
    assert three.texts["row"].startswith("90, 91, 92")
    assert three.texts["row"].endswith("... (30 numbers)")
    assert shown_samples(source, []) == ()


def test_token_ids_are_text_where_that_is_known() -> None:
    specs = [TensorSpec("ids", ("N", 3), np.dtype(np.int64))]
    source = open_source({"ids": np.array([[1, 2, 3], [4, 5, 6]])}, specs, batch_size=2)
    (shown,) = shown_samples(source, [Changed(1, 0, 1, 0.9, 0.5)], lambda ids: f"<{ids.sum()}>")
    assert shown.texts == {"ids": "<15>"}
    (plain,) = shown_samples(source, [Changed(1, 0, 1, 0.9, 0.5)])
    assert plain.texts == {"ids": "4, 5, 6"}
