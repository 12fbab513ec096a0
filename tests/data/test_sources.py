"""Sources cut, limited, batched and split, with their labels."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from ten_samples import F32, FREE, WHOLE, samples, seen, sizes

from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.open_source import open_source, split
from obs_onnx.passes.errors import DataError, OptionError

FIXED = (TensorSpec("x", (4, 3), F32),)


def test_split_spreads_evenly_and_depends_on_the_seed():
    source = open_source({"x": samples(400)}, FREE)
    fit, held = split(source, 0.25, seed=0)
    assert (fit.count, held.count) == (300, 100)
    assert all(len([row for row in seen(held) if row // 4 == block]) == 1 for block in range(100))
    assert seen(split(source, 0.25, seed=0)[1]) == seen(held)
    assert seen(split(source, 0.25, seed=1)[1]) != seen(held)
    stream = open_source(lambda: iter(samples(400)), FREE)
    assert seen(split(stream, 0.25, seed=0)[1]) == seen(held)


def test_split_of_two_gives_one_each():
    for source in (open_source({"x": samples(2)}, FREE), open_source(list(samples(2)), FREE)):
        fit, held = split(source, 0.01)
        assert (seen(fit), seen(held)) == ([0], [1])


@pytest.mark.parametrize("batch", [1, 3, 128])
def test_halves_are_those_of_samples_whatever_the_batch(batch):
    stream = open_source(lambda: iter(samples(40)), FREE)
    for source in (open_source({"x": samples(40)}, FREE), stream):
        first, second = source.rebatch(batch).halves()
        assert sorted(seen(first) + seen(second)) == list(range(40))
        assert (seen(first), seen(second)) == tuple(map(seen, source.halves()))
        assert len(seen(first)) == len(seen(second)) == 20


def test_one_sample_has_no_second_half():
    first, second = open_source({"x": samples(1)}, FREE).halves()
    assert (seen(first), list(second)) == ([0], [])


@pytest.mark.parametrize("data", [{"x": samples(1)}, [samples(1)[0]]])
def test_one_sample_cannot_be_split(data):
    with pytest.raises(DataError, match=r"only (one|1) .*held out"):
        split(open_source(data, FREE))


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5])
def test_share_must_be_between_zero_and_one(share):
    with pytest.raises(OptionError, match="between 0 and 1"):
        split(open_source({"x": samples()}, FREE), share)


def test_limit_spreads_over_sorted_samples():
    source = open_source({"x": samples(), "labels": np.arange(10)}, FREE).limit(4)
    assert source.count == 4
    assert seen(source) == [0, 2, 5, 7]
    assert [labels.tolist() for _, labels in source.batches()] == [[0, 2, 5, 7]]
    assert source.limit(100).count == 4
    with pytest.raises(OptionError, match="at least 1"):
        source.limit(0)


def test_limit_of_a_stream_stops_reading():
    made = []

    def endless():
        for number in range(10**9):
            made.append(number)
            yield {"x": np.full((1, 3), number, np.float32)}

    source = open_source(endless, FREE).limit(3)
    assert source.count is None
    made.clear()
    assert seen(source) == [0, 1, 2]
    assert len(made) <= 4


def test_rebatch():
    source = open_source({"x": samples()}, FREE, batch_size=4)
    assert sizes(source) == [4, 4, 2]
    assert sizes(source.rebatch(6)) == [6, 4]
    assert sizes(open_source({"x": samples()}, FIXED).rebatch(3)) == [4, 4]
    assert sizes(open_source({"x": samples(2)}, (TensorSpec("x", (1, 3), F32),)).rebatch(3)) == [1, 1]


def test_labels_follow_their_samples():
    source = open_source({"x": samples(), "labels": np.arange(10)[:, None]}, FREE, batch_size=4)
    assert source.has_labels
    for part in (source, *split(source), source.limit(3)):
        for feed, labels in part.batches():
            assert labels.dtype == np.int64
            assert labels.tolist() == feed["x"][:, 0].tolist()


def test_labels_of_streams_follow_their_samples():
    pairs = [(row, number) for number, row in enumerate(samples())]
    dicts = [{"x": samples()[i : i + 4], "y": np.arange(10)[i : i + 4]} for i in range(0, 10, 4)]
    for source in (
        open_source(pairs, FREE, batch_size=4),
        open_source(dicts, FREE, labels_key="y", batch_size=3),
    ):
        assert source.has_labels
        for part in (source, *split(source)):
            for feed, labels in part.batches():
                assert labels.tolist() == feed["x"][:, 0].tolist()


def test_fixed_batch_groups_and_notes_what_is_left_out():
    source = open_source({"x": samples(), "labels": np.arange(10)}, FIXED, batch_size=3)
    assert sizes(source) == [4, 4]
    assert source.count == 8
    assert "the last 2 samples are left out" in source.notes[0]
    fit, held = split(source)
    assert [sizes(part) for part in (fit, held)] == [[4], [4]]
    assert sorted(seen(fit) + seen(held)) == list(range(8))
    assert sizes(source.limit(5)) == [4]


def test_fixed_batch_needs_enough_samples():
    with pytest.raises(DataError, match=r"3 samples, but the model takes batches of 4"):
        open_source({"x": samples(3)}, FIXED)
    with pytest.raises(DataError, match=r"3 samples, but the model takes batches of 4"):
        list(open_source(list(samples(3)), FIXED))


def test_fixed_batch_collects_streamed_samples():
    assert sizes(open_source(list(samples()), FIXED)) == [4, 4]


def test_whole_feeds():
    stacked = {"x": np.stack([samples(5), samples(5) + 5]), "scale": np.array([2, 3], np.float32)}
    source = open_source(stacked, WHOLE)
    assert source.count == 2
    assert [float(feed["scale"]) for feed in source] == [2, 3]
    assert [feed["x"].shape for feed in source] == [(5, 3), (5, 3)]
    fit, held = split(source)
    assert (fit.count, held.count) == (1, 1)


def test_stacked_feeds_with_labels():
    specs = (TensorSpec("x", (2, 3), F32), TensorSpec("scale", (), F32))
    data = {
        "x": samples(8).reshape(4, 2, 3),
        "scale": np.ones(4, np.float32),
        "labels": np.arange(8).reshape(4, 2),
    }
    labels = [labels.tolist() for _, labels in open_source(data, specs).batches()]
    assert labels == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_streams_stay_lazy():
    alive = []

    def feeds():
        for number in range(50):
            alive.append(number)
            yield {"x": samples(2)}

    source = open_source(feeds, FREE)
    alive.clear()
    assert len(list(islice(iter(source), 3))) == 3
    assert len(alive) <= 4
