"""Feeds joined along the axes of their samples, and cut again."""

from __future__ import annotations

import numpy as np

from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.open_source import open_source
from obs_onnx.evaluation.merged import MergedSource, fitted

F32 = np.dtype(np.float32)
SPECS = (TensorSpec("x", (3, 2, 4), F32), TensorSpec("table", (2,), F32))
AXES = {"x": 1}


def feeds(tables: list[float]) -> list[dict[str, np.ndarray]]:
    return [
        {"x": np.full((3, 2, 4), k, np.float32), "table": np.full(2, table, np.float32)}
        for k, table in enumerate(tables)
    ]


def merged(tables: list[float], batch: int) -> MergedSource:
    return MergedSource(open_source(feeds(tables), SPECS), AXES, batch)


def samples(source: MergedSource) -> list[list[float]]:
    return [feed["x"][0, :, 0].tolist() for feed in source]


def test_feeds_are_joined_until_they_make_a_batch() -> None:
    source = merged([7, 7, 7, 7, 7], 4)
    assert samples(source) == [[0, 0, 1, 1], [2, 2, 3, 3], [4, 4]]
    assert all(feed["x"].shape[::2] == (3, 4) and feed["table"].tolist() == [7, 7] for feed in source)
    assert (source.unit, source.count) == ("feeds", 5)


def test_feeds_with_another_table_stay_apart() -> None:
    assert samples(merged([7, 7, 8, 8], 100)) == [[0, 0, 1, 1], [2, 2, 3, 3]]


def test_a_smaller_batch_cuts_feeds() -> None:
    assert samples(merged([7, 7], 100).rebatch(1)) == [[0], [0], [1], [1]]


def test_selections_are_those_of_the_feeds() -> None:
    source = merged([7] * 8, 100)
    fit, held = source.split(0.25, seed=0)
    assert len(samples(fit)[0]) == 12
    assert len(samples(held)[0]) == 4
    assert samples(source.limit(3)) == [[0, 0, 1, 1, 2, 2]]


def test_feeds_of_other_sizes_stay_apart() -> None:
    specs = (TensorSpec("x", (1, "T"), F32),)
    lengths = [3, 3, 5, 3]
    given = open_source([{"x": np.zeros((1, length), np.float32)} for length in lengths], specs)
    found = [feed["x"].shape for feed in MergedSource(given, {"x": 0}, 9)]
    assert found == [(2, 3), (1, 5), (1, 3)]


def test_labels_go_with_their_samples() -> None:
    specs = (TensorSpec("x", (2, 3), F32),)
    items = [(np.zeros((2, 3), np.float32), np.array([2 * k, 2 * k + 1])) for k in range(3)]
    source = MergedSource(open_source(items, specs), {"x": 0}, 4)
    assert [labels.tolist() for _, labels in source.batches() if labels is not None] == [[0, 1, 2, 3], [4, 5]]
    assert [len(feed["x"]) for feed, _ in source.rebatch(1).batches()] == [1] * 6


def test_a_feed_is_fitted_to_a_number_of_samples() -> None:
    (feed,) = merged([7], 100)
    assert fitted(feed, AXES, 5)["x"].shape == (3, 5, 4)
    assert fitted(feed, AXES, 1)["x"].shape == (3, 1, 4)
    assert fitted(feed, AXES, 1)["table"] is feed["table"]
