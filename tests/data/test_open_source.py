"""Every kind of source gives the right feeds, and every bad input says which array and what to do."""

from __future__ import annotations

import json
import sys
import zipfile
from itertools import islice
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.open_source import concrete_shape, open_source, random_feed, split
from obs_onnx.data.rows import open_npz
from obs_onnx.data.sources import batch_layout
from obs_onnx.passes.errors import DataError, OptionError

F32 = np.dtype(np.float32)
I64 = np.dtype(np.int64)
FREE = (TensorSpec("x", ("N", 3), F32),)
FIXED = (TensorSpec("x", (4, 3), F32),)
WHOLE = (TensorSpec("x", ("T", 3), F32), TensorSpec("scale", (), F32))
TWO = (TensorSpec("x", ("N", 3), F32), TensorSpec("ids", ("N", 2), I64))


def samples(count: int = 10) -> np.ndarray:
    """Row ``i`` holds ``i`` everywhere, so that every row can be recognised."""
    return np.repeat(np.arange(count, dtype=np.float32)[:, None], 3, axis=1)


def seen(source) -> list[int]:
    """Which rows of :func:`samples` came, in order."""
    return [int(row[0]) for feed in source for row in feed["x"]]


def sizes(source) -> list[int]:
    return [len(feed["x"]) for feed in source]


FORMS = (
    "npz",
    "compressed npz",
    "npy",
    "npz folder",
    "npy folder",
    "npy of single samples",
    "dict",
    "array",
    "list of feeds",
    "list of samples",
    "function",
    "reader",
)


@pytest.fixture(params=FORMS)
def ten(request, tmp_path):
    """Ten samples in every form."""
    x = samples()
    kind = request.param
    if kind == "npz":
        np.savez(tmp_path / "a.npz", x=x)
        return tmp_path / "a.npz"
    if kind == "compressed npz":
        np.savez_compressed(tmp_path / "a.npz", x=x)
        return str(tmp_path / "a.npz")
    if kind == "npy":
        np.save(tmp_path / "a.npy", x)
        return tmp_path / "a.npy"
    if kind.startswith("np"):
        for number, rows in enumerate(np.split(x, [4, 7])):
            if kind == "npz folder":
                np.savez(tmp_path / f"f{number}.npz", x=rows)
            elif kind == "npy folder":
                np.save(tmp_path / f"f{number}.npy", rows)
        if kind == "npy of single samples":
            for number, row in enumerate(x):
                np.save(tmp_path / f"f{number}.npy", row)
        return tmp_path
    if kind == "reader":
        return Reader([{"x": x[:6]}, {"x": x[6:]}])
    return {
        "dict": {"x": x},
        "array": x,
        "list of feeds": [{"x": x[:5]}, {"x": x[5:]}],
        "list of samples": [{"x": row} for row in x],
        "function": lambda: ({"x": row[None]} for row in x),
    }[kind]


class Reader:
    """As onnxruntime's CalibrationDataReader."""

    def __init__(self, feeds: list[dict]) -> None:
        self.feeds = feeds
        self.rewind()

    def get_next(self) -> dict | None:
        return next(self.iterator, None)

    def rewind(self) -> None:
        self.iterator = iter(self.feeds)


class OnceOnly(Reader):
    rewound = False

    def rewind(self) -> None:
        if self.rewound:
            raise NotImplementedError
        self.rewound = True
        super().rewind()


def test_every_kind_gives_all_samples_twice(ten):
    source = open_source(ten, FREE, batch_size=3)
    assert seen(source) == list(range(10))
    assert seen(source) == list(range(10))
    assert max(sizes(source)) <= 3
    for feed in source:
        assert feed["x"].dtype == np.float32
        assert feed["x"].flags.c_contiguous


def test_every_kind_splits_into_disjoint_parts(ten):
    fit, held = split(open_source(ten, FREE, batch_size=3), 0.25, seed=1)
    assert sorted(seen(fit) + seen(held)) == list(range(10))
    assert seen(held)
    again = split(open_source(ten, FREE, batch_size=2), 0.25, seed=1)[1]
    assert seen(again) == seen(held)


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


def test_a_model_input_called_labels_is_an_input():
    specs = (*FREE, TensorSpec("labels", ("N",), I64))
    source = open_source({"x": samples(), "labels": np.arange(10)}, specs, batch_size=10)
    assert not source.has_labels
    assert next(iter(source))["labels"].tolist() == list(range(10))


# --- the batch of the model


@pytest.mark.parametrize(
    ("shapes", "layout"),
    [
        ([("N", 3)], "free"),
        ([(None, 3), (None, 2)], "free"),
        ([("N", 3), ("N", 2)], "free"),
        ([("N", 3), (None, 2)], "free"),
        ([None], "free"),
        ([("N", 3), ("M", 2)], "none"),
        ([("N", 3), (1, 2)], "none"),
        ([("N", 3), ()], "none"),
        ([(4, 3), (4, 2)], 4),
        ([(4, 3), (5, 2)], "none"),
        ([], "none"),
    ],
)
def test_batch_layout(shapes, layout):
    assert batch_layout([TensorSpec(str(i), shape, F32) for i, shape in enumerate(shapes)]) == layout


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
    with pytest.raises(DataError, match=r"takes batches of 4, there are 3"):
        list(open_source(list(samples(3)), FIXED))


def test_fixed_batch_collects_streamed_samples():
    assert sizes(open_source(list(samples()), FIXED)) == [4, 4]


def test_whole_feeds():
    one = {"x": samples(5), "scale": np.float32(2)}
    source = open_source(one, WHOLE)
    assert (source.count, source.unit) == (1, "feeds")
    feed = next(iter(source))
    assert feed["x"].shape == (5, 3)
    assert feed["scale"].shape == ()
    stacked = {"x": np.stack([samples(5), samples(5) + 5]), "scale": np.array([2, 3], np.float32)}
    source = open_source(stacked, WHOLE)
    assert source.count == 2
    assert [float(feed["scale"]) for feed in source] == [2, 3]
    assert [feed["x"].shape for feed in source] == [(5, 3), (5, 3)]
    fit, held = split(source)
    assert (fit.count, held.count) == (1, 1)


def test_folder_of_whole_feeds_of_different_length(tmp_path):
    for number in (10, 9, 2):  # sorted as numbers, not as text
        np.savez(tmp_path / f"f{number}.npz", x=samples(number), scale=np.float32(number))
    source = open_source(tmp_path, WHOLE)
    assert source.count == 3
    assert [float(feed["scale"]) for feed in source] == [2, 9, 10]


def test_stacked_feeds_with_labels():
    specs = (TensorSpec("x", (2, 3), F32), TensorSpec("scale", (), F32))
    data = {
        "x": samples(8).reshape(4, 2, 3),
        "scale": np.ones(4, np.float32),
        "labels": np.arange(8).reshape(4, 2),
    }
    labels = [labels.tolist() for _, labels in open_source(data, specs).batches()]
    assert labels == [[0, 1], [2, 3], [4, 5], [6, 7]]


# --- files


def test_npz_members_are_mapped_not_read(tmp_path):
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", x=samples(), y=np.asfortranarray(samples(4)), z=np.zeros((0, 3)))
        arrays = open_npz(tmp_path / "a.npz")
        assert isinstance(arrays["x"], np.memmap)
        np.testing.assert_array_equal(arrays["x"], samples())
        np.testing.assert_array_equal(arrays["y"], samples(4))
        assert arrays["z"].shape == (0, 3)


def test_folder_of_npy_per_input(tmp_path):
    np.save(tmp_path / "x.npy", samples())
    np.save(tmp_path / "ids.npy", np.arange(20).reshape(10, 2))
    np.save(tmp_path / "labels.npy", np.arange(10))
    source = open_source(tmp_path, TWO, batch_size=4)
    feed, labels = next(source.batches())
    assert feed["ids"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert labels.tolist() == [0, 1, 2, 3]


def test_sub_folders_of_npy_per_input(tmp_path):
    for name in ("x", "ids"):
        (tmp_path / name).mkdir()
    for number, row in enumerate(samples(11)):
        np.save(tmp_path / "x" / f"s{number}.npy", row)
    np.save(tmp_path / "ids" / "all.npy", np.arange(22).reshape(11, 2))
    source = open_source(tmp_path, TWO, batch_size=20)
    assert seen(source) == list(range(11))
    assert next(iter(source))["ids"][10].tolist() == [20, 21]
    for path in (tmp_path / "ids").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no npy files for input 'ids'"):
        open_source(tmp_path, TWO)


def test_npy_files_must_agree(tmp_path):
    np.save(tmp_path / "a.npy", samples(2))
    np.save(tmp_path / "b.npy", np.zeros((2, 4), np.float32))
    with pytest.raises(DataError, match=r"b\.npy: .* all files must agree"):
        open_source(tmp_path, FREE)
    np.save(tmp_path / "b.npy", np.zeros((1, 1, 1, 3), np.float32))
    with pytest.raises(DataError, match=r"b\.npy: array has 4 axes; one sample has 1, a batch 2"):
        open_source(tmp_path, FREE)


def test_module_function(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_feeds.py").write_text(
        "import numpy as np\n"
        "def feeds():\n    return ({'x': np.full((1, 3), i, np.float64)} for i in range(5))\n"
        "def arrays():\n    return {'x': np.ones((7, 3)), 'labels': np.arange(7)}\n"
        "def broken():\n    yield {'x': np.ones((1, 3))}\n    raise RuntimeError('disk on fire')\n"
        "def nothing():\n    return []\n"
        "def number():\n    return 7\n"
    )
    path = list(sys.path)
    source = open_source("my_feeds:feeds", FREE)
    assert seen(source) == seen(source) == [0, 1, 2, 3, 4]
    assert open_source("my_feeds:arrays", FREE).count == 7
    assert seen(open_source(f"{tmp_path / 'my_feeds.py'}:feeds", FREE)) == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match=r"my_feeds:broken: failed with RuntimeError: disk on fire"):
        list(open_source("my_feeds:broken", FREE))
    with pytest.raises(DataError, match="gave no data"):
        open_source("my_feeds:nothing", FREE)
    with pytest.raises(DataError, match="returned int"):
        open_source("my_feeds:number", FREE)
    with pytest.raises(DataError, match="cannot import it"):
        open_source("my_feeds:missing", FREE)
    with pytest.raises(DataError, match="cannot import it"):
        open_source("no_such_module_here:feeds", FREE)
    assert sys.path == path


# --- random data


IDS = ("input_ids", "attention_mask", "position_ids")


def test_random_is_seeded_and_independent_of_batches():
    specs = (
        TensorSpec("x", ("N", 3, "H", "W"), F32),
        *(TensorSpec(name, ("N", "T"), I64) for name in IDS),
        TensorSpec("flag", ("N",), np.dtype(bool)),
    )

    def all_rows(batch_size, seed=0):
        feeds = list(open_source("random:5", specs, batch_size=batch_size, seed=seed, sizes={"H": 8}))
        return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}

    rows = all_rows(2)
    shapes = {"x": (5, 3, 8, 32), "flag": (5,), **dict.fromkeys(IDS, (5, 16))}
    assert {name: array.shape for name, array in rows.items()} == shapes
    assert (rows["attention_mask"] == 1).all()
    assert rows["flag"].all()
    assert rows["position_ids"][3].tolist() == list(range(16))
    assert 0 <= rows["input_ids"].min() < rows["input_ids"].max() < 10
    assert 0.9 < rows["x"].std() < 1.1
    other = all_rows(5)
    assert all(np.array_equal(rows[name], other[name]) for name in rows)
    assert not np.array_equal(rows["x"], all_rows(2, seed=1)["x"])
    assert not np.array_equal(rows["x"][0], rows["x"][1])


def test_random_whole_feeds():
    source = open_source("random:3", WHOLE)
    assert source.count == 3
    assert next(iter(source))["x"].shape == (1, 3)


@pytest.mark.parametrize("number", ["0", "", "-3", "many", "1.5"])
def test_random_needs_a_number(number):
    with pytest.raises(OptionError, match="random:256"):
        open_source(f"random:{number}", FREE)


def test_random_feed():
    feed = random_feed(TWO, batch=6)
    assert (feed["x"].shape, feed["ids"].shape) == ((6, 3), (6, 2))
    with pytest.raises(DataError, match="has no rank"):
        concrete_shape(TensorSpec("x", None, F32), {})
    with pytest.raises(DataError, match="takes strings"):
        random_feed([TensorSpec("text", ("N",), np.dtype(object))])


# --- what does not fit


def bad_array(value, at=(4, 1)):
    x = samples()
    x[at] = value
    return x


@pytest.mark.parametrize(
    ("data", "specs", "message"),
    [
        ({}, FREE, r"no array for input 'x' \(it has no arrays\)"),
        (
            {"y": samples()},
            FREE,
            r"no array for input 'x' \(it has 'y'\); name the arrays like the inputs: x",
        ),
        ({"x": samples(), "extra": samples()}, FREE, r"array 'extra' is no input of the model \(inputs: x\)"),
        ({"x": samples()[0]}, FREE, r"array 'x' has shape \(3\), the model wants \(samples, 3\).*2 axes"),
        ({"x": samples()[:, :2]}, FREE, r"array 'x' has shape \(10, 2\).*axis 1 must have size 3"),
        ({"x": samples()[:, :, None, None]}, FREE, r"array 'x' has shape \(10, 3, 1, 1\)"),
        ({"x": samples().astype(np.uint8)}, FREE, r"array 'x' is uint8, the model wants float32: scale it"),
        ({"x": samples().astype(np.int64)}, FREE, r"array 'x' is int64, the model wants float32"),
        ({"x": samples().astype(complex)}, FREE, r"array 'x' is complex128"),
        ({"x": samples().astype(str)}, FREE, r"array 'x' is <U32"),
        ({"x": samples(0)}, FREE, r"array 'x' has no samples"),
        ({"x": samples(), "ids": np.zeros((9, 2), int)}, TWO, r"'x' has 10 samples, 'ids' has 9"),
        ({"x": samples(), "ids": np.zeros((10, 2))}, TWO, r"array 'ids' is float64, the model wants int64"),
        (
            {"x": samples(), "ids": np.zeros((10, 2), bool)},
            TWO,
            r"array 'ids' is bool, the model wants int64",
        ),
        ({"x": samples(), "labels": np.arange(9)}, FREE, r"'labels' has 9 entries for 10 samples"),
        ({"x": samples(), "labels": np.arange(10) - 1}, FREE, r"'labels' has the negative value -1 at 0"),
        ({"x": samples(), "labels": np.arange(10.0)}, FREE, r"'labels' is float64, labels are whole numbers"),
        ({"x": samples(), "labels": np.eye(10, dtype=int)}, FREE, r"'labels' has shape \(10, 10\).*argmax"),
        ({"x": samples(), "labels": np.zeros((10, 1, 1), int)}, FREE, r"'labels' has shape \(10, 1, 1\)"),
        ({"x": samples(), "labels": np.int64(3)}, FREE, r"'labels' has shape \(\)"),
        (
            {"x": samples(5), "scale": np.float32([1, 2])},
            WHOLE,
            r"'scale' has shape \(2\), the model wants \(\)",
        ),
        (samples(), TWO, r"one array without a name, but several inputs: name them x, ids"),
        ([{"x": samples()}, {"x": samples()[:, :2]}], FREE, r"list, feed 1: array 'x' has shape \(10, 2\)"),
        ([{"x": samples()}, {"y": samples()}], FREE, r"list, feed 1: no array for input 'x'"),
        ([{"x": samples(), "ids": np.zeros((9, 2), int)}] * 2, TWO, r"'x' has 10 samples, 'ids' has 9"),
        ([samples()[0], samples()[0, :2]], FREE, r"samples of different shapes"),
        ([(samples(), np.arange(10)), samples()], FREE, r"feed 1: has no labels, the first one has"),
        ([], FREE, r"list: gave no data"),
        (iter([{"x": samples()}]), FREE, r"list_iterator can be read only once: pass a list, or a function"),
        (({"x": row} for row in samples()), FREE, r"generator can be read only once"),
        (7, FREE, r"a int is no source of data"),
        ("no/such/file.npz", FREE, r"no/such/file\.npz: no such file or folder"),
        (OnceOnly([{"x": samples()}]), FREE, r"OnceOnly cannot rewind"),
    ],
)
def test_bad_data_names_the_array(data, specs, message):
    with pytest.raises(DataError, match=message):
        list(open_source(data, specs))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", ["array", "stream"])
def test_values_that_are_not_finite(value, form):
    x = bad_array(value)
    source = open_source({"x": x} if form == "array" else [{"x": x[:4]}, {"x": x[4:]}], FREE, batch_size=4)
    with pytest.raises(DataError, match=r"array 'x' has NaN or infinite values \(first at index \[0, 1\]"):
        list(source)


def test_missing_labels_key():
    with pytest.raises(DataError, match=r"no array 'target' for the labels \(it has x\)"):
        open_source({"x": samples()}, FREE, labels_key="target")
    with pytest.raises(DataError, match=r"no array 'target' for the labels"):
        open_source([{"x": samples()}] * 2, FREE, labels_key="target")


def test_batch_size_below_one():
    with pytest.raises(OptionError, match="at least 1"):
        open_source({"x": samples()}, FREE, batch_size=0)


@pytest.mark.parametrize(
    ("given", "wanted", "value"),
    [
        (np.float64, np.float32, 1.5),
        (np.float16, np.float32, 1.5),
        (np.float32, np.float16, 1.5),
        (np.float32, ml_dtypes.bfloat16, 1.5),
        (np.int32, np.int64, -3),
        (np.int64, np.int8, -3),
        (np.bool_, np.bool_, True),
        (np.uint8, np.bool_, 1),
    ],
)
def test_safe_casts(given, wanted, value):
    data = {"x": np.full((2, 3), value, given)}
    feed = next(iter(open_source(data, (TensorSpec("x", ("N", 3), np.dtype(wanted)),))))
    assert feed["x"].dtype == wanted
    assert (feed["x"] == np.array(value, wanted)).all()


@pytest.mark.parametrize(
    ("given", "wanted", "value", "message"),
    [
        (np.float64, np.float32, 1e300, "too large for float32"),
        (np.float32, np.float16, 1e6, "too large for float16"),
        (np.int64, np.int32, 2**40, "too wide for int32"),
        (np.int64, np.uint8, -1, "too wide for uint8"),
        (np.int64, np.bool_, 2, "too wide for bool"),
    ],
)
def test_casts_that_lose_the_value(given, wanted, value, message):
    data = {"x": np.full((2, 3), value, given)}
    with pytest.raises(DataError, match=message):
        list(open_source(data, (TensorSpec("x", ("N", 3), np.dtype(wanted)),)))


def test_bfloat16_survives_npz(tmp_path):
    x = samples().astype(ml_dtypes.bfloat16)
    np.savez(tmp_path / "a.npz", x=x)
    source = open_source(tmp_path / "a.npz", (TensorSpec("x", ("N", 3), np.dtype(ml_dtypes.bfloat16)),))
    np.testing.assert_array_equal(next(iter(source))["x"], x)


def test_strings():
    spec = (TensorSpec("x", ("N",), np.dtype(object)),)
    assert next(iter(open_source({"x": np.array(["a", "b"])}, spec)))["x"].tolist() == ["a", "b"]
    with pytest.raises(DataError, match="array of strings"):
        open_source({"x": np.zeros(3)}, spec)


def test_bad_files(tmp_path):
    def message(name: str) -> str:
        with pytest.raises(DataError) as caught:
            list(open_source(tmp_path / name, FREE))
        assert name in str(caught.value)
        return str(caught.value)

    (tmp_path / "text.npz").write_text("not a zip")
    assert "not an npz file" in message("text.npz")
    (tmp_path / "empty.npz").write_bytes(b"")
    assert "not an npz file" in message("empty.npz")
    np.savez(tmp_path / "whole.npz", x=samples(1000))
    data = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(data[: len(data) // 2])
    assert "damaged" in message("half.npz")
    np.savez(tmp_path / "objects.npz", x=np.array([{}, 1], object))
    assert "pickled" in message("objects.npz")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "holds no arrays" in message("other.npz")
    with zipfile.ZipFile(tmp_path / "junk.npz", "w") as archive:
        archive.writestr("x.npy", b"no array at all")
    assert "array 'x' is damaged" in message("junk.npz")
    np.save(tmp_path / "objects.npy", np.array([{}, 1], object))
    assert "plain numbers" in message("objects.npy")
    (tmp_path / "junk.npy").write_bytes(b"junk")
    assert "cannot read it" in message("junk.npy")
    (tmp_path / "folder").mkdir()
    assert "holds no npz, npy or image files" in message("folder")


# --- images


@pytest.fixture
def pictures(tmp_path):
    """Two classes of 6 x 4 (width x height) pictures; every picture has one colour."""
    from PIL import Image

    for number, (folder, colour) in enumerate([("b", (0, 0, 255)), ("a", (255, 0, 0)), ("a", (0, 51, 0))]):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", (6, 4), colour).save(tmp_path / folder / f"{number}.png")
    return tmp_path


IMAGE = (TensorSpec("image", ("N", 3, 4, 4), F32),)


def test_images(pictures):
    (pictures / "preprocess.json").write_text(
        json.dumps({"resize": 4, "crop": 4, "mean": [0.5, 0, 0], "std": [0.5, 1, 2]})
    )
    source = open_source(pictures, IMAGE)
    ((feed, labels),) = source.batches()
    assert labels.tolist() == [0, 0, 1]
    assert feed["image"].shape == (3, 3, 4, 4)
    np.testing.assert_allclose(feed["image"][:, :, 1, 2], [[1, 0, 0], [-1, 0.2, 0], [-1, 0, 0.5]], atol=1e-6)


def test_images_in_other_orders(pictures):
    spec = (TensorSpec("image", ("N", 4, 6, 3), np.dtype(np.uint8)),)
    source = open_source(pictures, spec, preprocess={"layout": "NHWC", "order": "BGR", "scale": 1})
    assert next(iter(source))["image"][:, 0, 0].tolist() == [[0, 0, 255], [0, 51, 0], [255, 0, 0]]
    grey = (TensorSpec("image", ("N", 1, 2, 3), F32),)
    feed = next(iter(open_source(pictures, grey, preprocess={"order": "L", "resize": [2, 3]})))
    np.testing.assert_allclose(feed["image"][0], 76 / 255, atol=1e-6)


def test_crop_takes_the_centre(tmp_path):
    from PIL import Image

    x = np.arange(80, dtype=np.uint8).reshape(8, 10)
    Image.fromarray(x).save(tmp_path / "a.png")
    spec = (TensorSpec("image", ("N", 1, 2, 4), F32),)
    source = open_source(tmp_path, spec, preprocess={"order": "L", "crop": [2, 4], "scale": 1})
    assert not source.has_labels
    np.testing.assert_array_equal(next(iter(source))["image"][0, 0], x[3:5, 3:7])


def test_labels_from_csv(pictures):
    table = pictures / "labels.csv"
    table.write_text("file,label\na/1.png,7\na/2.png,5\nb/0.png,3\n")
    ((_, labels),) = open_source(pictures, IMAGE, preprocess={"resize": [4, 4]}).batches()
    assert labels.tolist() == [7, 5, 3]
    table.write_text("a/1.png,7\na/2.png,5\n")
    with pytest.raises(DataError, match=r"labels\.csv: no label for b/0\.png"):
        open_source(pictures, IMAGE, preprocess={"resize": [4, 4]})
    table.write_text("a/1.png,7\na/2.png,five\n")
    with pytest.raises(DataError, match=r"labels\.csv: line 2"):
        open_source(pictures, IMAGE, preprocess={"resize": [4, 4]})


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"size": 4}, "unknown key 'size'"),
        ({"layout": "CHW"}, "layout 'CHW' is none of NCHW, NHWC"),
        ({"order": "CMYK"}, "order 'CMYK'"),
        ({"interpolation": "magic"}, "interpolation 'magic'"),
        ({"mean": [1, 2]}, "mean needs 3 values"),
        ({"std": [1, 0, 1]}, "std holds a zero"),
        ({"mean": "grey"}, "mean holds something that is no number"),
        ({"scale": None}, "scale holds something that is no number"),
        ({"resize": 0}, "resize is a number of pixels"),
        ({"crop": "big"}, "crop is a number of pixels"),
        ({"resize": [1, 2, 3]}, "resize is a number of pixels"),
        ({"resize": [7]}, "resize is a number of pixels"),
        ({"resize": 5.5}, "resize is a number of pixels"),
        ({"crop": True}, "crop is a number of pixels"),
        ({"crop": {"height": 4}}, "crop is a number of pixels"),
        ({"interpolation": ["bilinear"]}, "interpolation"),
        ({"scale": [1, 2]}, "scale is one number"),
        ({"scale": float("nan")}, "finite numbers"),
        ({"mean": [10**400]}, "mean holds something that is no number"),
        ({"std": float("inf")}, "finite numbers"),
        ({"resize": [5, 5]}, r"array 'image' has shape \(3, 3, 5, 5\)"),
    ],
)
def test_bad_preprocessing(pictures, how, message):
    with pytest.raises(DataError, match=message):
        open_source(pictures, IMAGE, preprocess=how)


def test_images_need_preprocessing_of_one_shape(pictures):
    from PIL import Image

    with pytest.raises(DataError, match=r"preprocess\.json: missing"):
        open_source(pictures, IMAGE)
    (pictures / "preprocess.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        open_source(pictures, IMAGE)
    (pictures / "preprocess.json").write_text("[]")
    with pytest.raises(DataError, match="JSON object"):
        open_source(pictures, IMAGE)
    Image.new("RGB", (9, 9)).save(pictures / "b" / "9.png")
    spec = (TensorSpec("image", ("N", 3, "H", "W"), F32),)
    with pytest.raises(DataError, match=r"9\.png: gives shape"):
        list(open_source(pictures, spec, preprocess={}))
    (pictures / "b" / "9.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"9\.png: cannot read the image"):
        list(open_source(pictures, IMAGE, preprocess={"resize": [4, 4]}))


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


@pytest.mark.parametrize(
    "body",
    ["sys.exit(7)", "raise KeyError(1)", "return 3", "return [{'x': object()}]", "return [3, 'a']", "f()"],
)
def test_functions_that_fail_or_return_nonsense(tmp_path, body):
    path = tmp_path / "own.py"
    path.write_text(f"import sys\ndef f():\n    {body}\n")
    with pytest.raises(DataError, match=r"own\.py:f"):
        next(iter(open_source(f"{path}:f", FREE)))


def test_a_module_that_ends_the_program(tmp_path):
    (tmp_path / "own.py").write_text("import sys\nsys.exit(7)\n")
    with pytest.raises(DataError, match="SystemExit: 7"):
        open_source(f"{tmp_path / 'own.py'}:f", FREE)


def test_a_function_that_ends_the_program_later(tmp_path):
    (tmp_path / "own.py").write_text(
        "import sys\nimport numpy as np\n"
        "def f():\n    yield {'x': np.ones((2, 3), np.float32)}\n    sys.exit(7)\n"
    )
    source = open_source(f"{tmp_path / 'own.py'}:f", FREE)
    with pytest.raises(DataError, match="SystemExit"):
        list(source)


def test_sizes_are_known_before_work():
    with pytest.raises(OptionError, match="give at most 1000000 samples"):
        open_source("random:99999999999999", FREE)
    wide = (TensorSpec("x", ("N", 2**40), F32),)
    with pytest.raises(DataError, match=r"one sample takes .* of memory, more than"):
        open_source("random:4", wide)
    with pytest.raises(DataError, match="one sample takes"):
        open_source("random:4", FREE, memory=11)
    open_source("random:4", FREE, memory=12)
    with pytest.raises(OptionError, match="batch 100000000000: its inputs take"):
        random_feed(FREE, batch=10**11)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"resize": 1' + "0" * 5000 + "}", "\x00", '{"a":' * 40_000])
def test_preprocessing_that_cannot_be_read(pictures, text):
    (pictures / "preprocess.json").write_text(text)
    with pytest.raises(DataError, match=r"preprocess\.json"):
        open_source(pictures, IMAGE)


def test_pictures_of_absurd_size(pictures):
    for how in ({"resize": 100_000_000, "crop": 5}, {"crop": [10**6, 10**6]}):
        with pytest.raises(DataError, match=r"of memory, more than .* give smaller samples"):
            open_source(pictures, IMAGE, preprocess=how)
