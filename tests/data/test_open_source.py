"""Every kind of source gives the right feeds, and every bad input says which array and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
from ten_samples import F32, FREE, WHOLE, samples, seen, sizes

from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.open_source import open_source, split
from obs_onnx.data.rows import concrete_shape, random_feed
from obs_onnx.passes.errors import DataError, OptionError

I64 = np.dtype(np.int64)


TWO = (TensorSpec("x", ("N", 3), F32), TensorSpec("ids", ("N", 2), I64))


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


def test_a_model_input_called_labels_is_an_input():
    specs = (*FREE, TensorSpec("labels", ("N",), I64))
    source = open_source({"x": samples(), "labels": np.arange(10)}, specs, batch_size=10)
    assert not source.has_labels
    assert next(iter(source))["labels"].tolist() == list(range(10))


def test_folder_of_whole_feeds_of_different_length(tmp_path):
    for number in (10, 9, 2):  # sorted as numbers, not as text
        np.savez(tmp_path / f"f{number}.npz", x=samples(number), scale=np.float32(number))
    source = open_source(tmp_path, WHOLE)
    assert source.count == 3
    assert [float(feed["scale"]) for feed in source] == [2, 9, 10]


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
        (
            {"x": samples(), "labels": np.zeros((9, 4, 4), int)},
            FREE,
            r"'labels' has 9 entries for 10 samples",
        ),
        ({"x": samples(), "labels": np.int64(3)}, FREE, r"'labels' has shape \(\)"),
        (
            {"x": samples(5), "scale": np.float32([1, 2])},
            WHOLE,
            r"array 'scale' has 2 samples, 'x' has 5: make them equal",
        ),
        (samples(), TWO, r"one array without a name, but several inputs: name them x, ids"),
        ([{"x": samples()}, {"x": samples()[:, :2]}], FREE, r"list, feed 1: array 'x' has shape \(10, 2\)"),
        ([{"x": samples()}, {"y": samples()}], FREE, r"list, feed 1: no array for input 'x'"),
        ([{"x": samples(), "ids": np.zeros((9, 2), int)}] * 2, TWO, r"'x' has 10 samples, 'ids' has 9"),
        ([samples()[0], samples()[0, :2]], FREE, r"list, sample 1: array 'x' has shape \(1, 2\)"),
        ([(samples(), np.arange(10)), samples()], FREE, r"feed 1: has no labels, the first one has"),
        ([], FREE, r"list: gave no data"),
        (7, FREE, r"a int is no source of data"),
        ("no/such/file.npz", FREE, r"no/such/file\.npz: no such file or folder"),
        (OnceOnly([{"x": samples()}]), FREE, r"OnceOnly cannot rewind"),
    ],
)
def test_bad_data_names_the_array(data, specs, message):
    with pytest.raises(DataError, match=message):
        list(open_source(data, specs))


def test_missing_labels_key():
    with pytest.raises(DataError, match=r"no array 'target' for the labels \(it has x\)"):
        open_source({"x": samples()}, FREE, labels_key="target")
    with pytest.raises(DataError, match=r"no array 'target' for the labels"):
        open_source([{"x": samples()}] * 2, FREE, labels_key="target")


def test_batch_size_below_one():
    with pytest.raises(OptionError, match="at least 1"):
        open_source({"x": samples()}, FREE, batch_size=0)


F32 = np.dtype(np.float32)

FREE = (TensorSpec("x", ("N", 3), F32),)


@pytest.mark.parametrize(
    "body",
    ["sys.exit(7)", "raise KeyError(1)", "return 3", "return [{'x': object()}]", "return [3, 'a']", "f()"],
)
def test_functions_that_fail_or_return_nonsense(tmp_path, body):
    path = tmp_path / "own.py"
    path.write_text(f"import sys\ndef f():\n    {body}\n")
    with pytest.raises(DataError, match=re.escape("own.py:f")):
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
    with pytest.raises(DataError, match="SystemExit"):
        open_source(f"{tmp_path / 'own.py'}:f", FREE)


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


class Tensor:
    """What a tensor of PyTorch is to others: on a device, with gradients, maybe of a type without arrays."""

    def __init__(self, array: np.ndarray, dtype: str = "torch.float32") -> None:
        self._array, self.dtype, self.shape = array, dtype, array.shape

    def detach(self) -> Tensor:
        return Tensor(self._array, f"{self.dtype}:detached")

    def cpu(self) -> Tensor:
        return Tensor(self._array, self.dtype.removesuffix(":detached"))

    def float(self) -> Tensor:
        return Tensor(self._array, "torch.float32")

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        if self.dtype != "torch.float32":
            raise TypeError(self.dtype)
        return self._array

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Iterator[Tensor]:
        return (Tensor(row) for row in self._array)


@pytest.mark.parametrize("kind", ["torch.float32", "torch.bfloat16"])
def test_tensors_are_arrays(kind: str) -> None:
    x = np.arange(24, dtype=np.float32).reshape(8, 3)
    specs = (TensorSpec("x", ("N", 3), np.dtype(np.float32)),)
    for data in (
        Tensor(x, kind),
        {"x": Tensor(x, kind)},
        [Tensor(row, kind) for row in x],
        [{"x": Tensor(x, kind)}],
    ):
        source = open_source(data, specs)
        assert source.count == 8
        np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in source]), x)
