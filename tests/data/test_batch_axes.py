"""Which axis counts the samples: shapes of arrays beside declared ones, and the roles worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.data.batch_axes import Role, batch_axes
from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.open_source import open_source, split
from obs_onnx.passes.errors import DataError

F32 = np.dtype(np.float32)
S, F, SHARED, REPEATED = Role.SAMPLES, Role.FEEDS, Role.SHARED, Role.REPEATED


def specs(*shapes: tuple) -> list[TensorSpec]:
    return [TensorSpec(name, shape, F32) for name, shape in zip("xyz", shapes, strict=False)]


@pytest.mark.parametrize(
    ("declared", "given", "roles", "count", "group", "whole"),
    [
        ([("N", 3)], [(64, 3)], [S], 64, 1, False),
        ([(None, 3)], [(64, 3)], [S], 64, 1, False),
        ([None], [(64, 3)], [S], 64, 1, False),
        ([("unk__6", 3, 8, 8), ("unk__7", 6)], [(64, 3, 8, 8), (64, 6)], [S, S], 64, 1, False),
        ([("N", 3), (None, 2)], [(64, 3), (64, 2)], [S, S], 64, 1, False),
        ([(1, 3), ("N", 6)], [(64, 3), (64, 6)], [S, S], 64, 1, True),
        ([(4, 3), (4, 2)], [(12, 3), (12, 2)], [S, S], 12, 4, True),
        ([(4, 3), ("N", 2)], [(12, 3), (12, 2)], [S, S], 12, 4, True),
        ([(4, 3)], [(4, 3)], [S], 4, 4, True),
        # one sequence
        ([("T",)], [(7,)], [SHARED], 1, 1, True),
        ([("sequence_length", 3)], [(7, 3)], [SHARED], 1, 1, True),
        ([("T", 3)], [(64, 7, 3)], [F], 64, 1, True),
        ([("batch_of_tokens", 3)], [(64, 3)], [S], 64, 1, False),
        # a scalar or a table for all samples
        ([("N", 3), ()], [(64, 3), ()], [S, SHARED], 64, 1, False),
        ([("N", 3), (1,)], [(64, 3), (1,)], [S, SHARED], 64, 1, False),
        ([("N", 3), (100, 4)], [(64, 3), (100, 4)], [S, SHARED], 64, 1, False),
        ([(1, 3), (100, 4)], [(64, 3), (100, 4)], [S, SHARED], 64, 1, True),
        ([("batch", 3), ("anchors", 4)], [(64, 3), (100, 4)], [S, SHARED], 64, 1, False),
        # one of them for each sample, where the model takes one at a time
        ([("N", 3), ()], [(64, 3), (64,)], [S, F], 64, 1, True),
        ([("N", 3), (1,)], [(64, 3), (64, 1)], [S, F], 64, 1, True),
        ([(4, 3), ()], [(12, 3), (3,)], [S, F], 12, 4, True),
        ([("N", 3), (), (100, 4)], [(64, 3), (64,), (100, 4)], [S, F, SHARED], 64, 1, True),
        # one row for all samples
        ([("N", 3), ("N", 7, 2)], [(64, 3), (1, 7, 2)], [S, REPEATED], 64, 1, False),
        ([("N", 3), ("N", 7, 2)], [(64, 3), (7, 2)], [S, REPEATED], 64, 1, False),
        ([("N", 3), ("N",)], [(64, 3), ()], [S, REPEATED], 64, 1, False),
        ([("N", 3), ("M",)], [(64, 3), (1,)], [S, SHARED], 64, 1, True),
        # whole feeds
        ([("N", 3), ()], [(5, 64, 3), (5,)], [F, F], 5, 1, True),
        ([("nodes", 8), (2, "edges")], [(30, 8), (2, 70)], [SHARED, SHARED], 1, 1, True),
        ([("nodes", 8), ("edges", 2)], [(30, 8), (70, 2)], [SHARED, SHARED], 1, 1, True),
        ([("nodes", 8), (2, "edges")], [(5, 30, 8), (5, 2, 70)], [F, F], 5, 1, True),
        ([("n", 8), ("n", "n")], [(30, 8), (30, 30)], [SHARED, SHARED], 1, 1, True),
        ([("?", 3, "?", "?")], [(64, 3, 32, 32)], [S], 64, 1, False),  # one name for all that is free
        ([()], [()], [SHARED], 1, 1, True),
    ],
)
def test_roles(declared, given, roles, count, group, whole) -> None:
    inputs = specs(*declared)
    found = batch_axes(inputs, dict(zip("xyz", given, strict=False)), "data")
    assert [found.roles[one.name] for one in inputs] == roles
    assert (found.count, found.group, found.whole) == (count, group, whole)


@pytest.mark.parametrize(
    ("declared", "given", "message"),
    [
        ([("N", 3), ("N", 2)], [(64, 3), (63, 2)], "'x' has 64 samples, 'y' has 63: make them equal"),
        ([(None, 3), (None, 2)], [(64, 3), (63, 2)], "'x' has 64 samples, 'y' has 63: make them equal"),
        ([(1, 3), (1, 2)], [(64, 3), (63, 2)], "'x' has 64 samples, 'y' has 63: make them equal"),
        ([("N", 3), ()], [(64, 3), (63,)], "'y' has 63 samples, 'x' has 64: make them equal"),
        ([("N", 3), ()], [(64, 3), (64, 1)], r"array 'y' has shape \(64, 1\), the model wants \(\)"),
        ([(2, 3), (4, 3)], [(8, 3), (16, 3)], "the inputs take batches of 2 and 4: give whole feeds"),
        ([(4, 3), ()], [(12, 3), (12,)], "array 'x' has 12 samples, 12 feeds of 4 make 48"),
        ([("N", 3)], [(3,)], r"array 'x' has shape \(3\), the model wants \(samples, 3\)"),
        ([("N", 3)], [(64, 4)], "axis 1 must have size 3"),
    ],
)
def test_what_does_not_go_together(declared, given, message) -> None:
    with pytest.raises(DataError, match=message):
        batch_axes(specs(*declared), dict(zip("xyz", given, strict=False)), "data")


def test_nobody_is_told_to_make_an_array_of_no_axes() -> None:
    with pytest.raises(DataError) as caught:
        open_source({"x": np.ones((4, 3), F32), "y": np.ones((4, 1), F32)}, specs(("N", 3), ()))
    assert "0 axes" not in str(caught.value)
    assert "one number for each feed: shape (feeds,)" in str(caught.value)


def test_feeds_of_samples_with_a_number_each() -> None:
    x, t = np.arange(12, dtype=F32).reshape(4, 3), np.arange(4, dtype=F32)
    source = open_source({"x": x, "y": t, "labels": np.arange(4)}, specs(("N", 3), ()), batch_size=2)
    got = [(feed["x"], feed["y"], labels) for feed, labels in source.batches()]
    assert [y.shape for _, y, _ in got] == [()] * 4
    np.testing.assert_array_equal(np.concatenate([x for x, _, _ in got]), x)
    assert [(float(y), labels.tolist()) for _, y, labels in got] == [(i, [i]) for i in range(4)]
    fit, held = split(source, 0.25)
    assert sorted(float(feed["y"]) for part in (fit, held) for feed in part) == [0, 1, 2, 3]


def test_shared_and_repeated_arrays_stand_in_every_feed() -> None:
    x, table, row = np.ones((5, 3), F32), np.arange(8, dtype=F32).reshape(4, 2), np.array([7, 8], F32)
    source = open_source({"x": x, "y": table, "z": row}, specs(("N", 3), (4, 2), ("N", 2)), batch_size=3)
    feeds = list(source)
    assert [len(feed["x"]) for feed in feeds] == [3, 2]
    for feed in feeds:
        np.testing.assert_array_equal(feed["y"], table)
        np.testing.assert_array_equal(feed["z"], np.repeat(row[None], len(feed["x"]), axis=0))
    assert any("array 'y' is the same in every feed" in note for note in source.notes)
    assert any("array 'z' is the same for every sample" in note for note in source.notes)


def test_random_feeds_of_any_inputs_fit() -> None:
    for declared in (
        [("N", 3), ()],
        [("a", 3), ("b", 2)],
        [(1, 3), ("N", 2)],
        [(4, 3), (4, 2)],
        [(2, 3), (4, 3)],
    ):
        source = open_source("random:8", specs(*declared), batch_size=4)
        for feed in source:
            for one in specs(*declared):
                sizes = zip(feed[one.name].shape, one.shape, strict=True)
                assert all(have == want or isinstance(want, str) for have, want in sizes)
