"""Streams: what loaders, generators and readers give, cut and split."""

from __future__ import annotations

import numpy as np
import pytest
from ten_samples import F32, FREE, samples, seen, sizes

from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.open_source import open_source, split
from obs_onnx.passes.errors import DataError

I64 = np.dtype(np.int64)
TWO = (TensorSpec("x", ("N", 3), F32), TensorSpec("ids", ("M", 2), I64))
STEP = (TensorSpec("x", ("N", 3), F32), TensorSpec("t", (), I64))
IDS = np.arange(20).reshape(10, 2)


class Loader:
    """As a DataLoader of PyTorch: batches of what ``make`` says, read any number of times."""

    def __init__(self, make, batch: int = 4, count: int = 100) -> None:
        self.make, self.batch, self.count = make, batch, count

    def __len__(self) -> int:
        return -(-self.count // self.batch)

    def __iter__(self):
        for start in range(0, self.count, self.batch):
            rows = np.arange(start, min(start + self.batch, self.count))
            yield self.make(np.repeat(rows[:, None], 3, axis=1).astype(np.float32), rows)


class Dataset:
    """As a data set of PyTorch: an index and a length, and no iterator."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int):
        return samples()[index], index


@pytest.mark.parametrize(
    ("make", "labelled"),
    [
        (lambda x, y: x, False),
        (lambda x, y: [x], False),
        (lambda x, y: (x,), False),
        (lambda x, y: [x, y], True),
        (lambda x, y: (x, y), True),
        (lambda x, y: {"x": x}, False),
        (lambda x, y: {"x": x, "labels": y}, True),
        (lambda x, y: ({"x": x}, y), True),
        (lambda x, y: [{"x": x}, y], True),
        (lambda x, y: ((x,), y[:, None]), True),
        (lambda x, y: [x, y.astype(np.float32)], False),  # targets of a regression are no classes
        (lambda x, y: (x, {"boxes": y}), False),
    ],
)
def test_what_a_loader_gives(make, labelled) -> None:
    source = open_source(Loader(make), FREE, batch_size=3)
    assert source.has_labels == labelled
    fit, held = split(source, 0.125)
    assert sorted(seen(fit) + seen(held)) == list(range(100))
    for feed, labels in source.batches():
        assert not labelled or labels.tolist() == feed["x"][:, 0].tolist()


def test_two_inputs_by_position() -> None:
    for make in (lambda x, y: [x, np.stack([y, y], 1)], lambda x, y: ((x, np.stack([y, y], 1)), y)):
        for feed in open_source(Loader(make), TWO):
            np.testing.assert_array_equal(feed["x"][:, :2], feed["ids"])
    with pytest.raises(DataError, match="gives 4 parts at a time, the model has 2 inputs: give a dict"):
        open_source(Loader(lambda x, y: [x, x, x, x]), TWO)


def test_tensors_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.from_numpy(samples()), torch.arange(10))
    for loader in (torch.utils.data.DataLoader(data, batch_size=4), data):
        source = open_source(loader, FREE)
        assert seen(source) == list(range(10))
        assert source.has_labels
    grown = [{"x": torch.ones(2, 3, requires_grad=True)}, {"x": torch.zeros(2, 3)}]
    assert open_source(grown, FREE).count == 4


class Tensor:
    """As a tensor of PyTorch that carries gradients: an array only once it is detached and in memory."""

    def __init__(self, array: np.ndarray, ready: bool = False) -> None:
        self.array, self.ready, self.shape = array, ready, array.shape

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return Tensor(self.array, True)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        assert self.ready
        return self.array


def test_tensors_that_carry_gradients() -> None:
    source = open_source(Loader(lambda x, y: [Tensor(x), Tensor(y)]), FREE)
    assert source.has_labels
    assert seen(source) == list(range(100))


def test_a_data_set_with_an_index() -> None:
    source = open_source(Dataset(), FREE)
    assert [labels.tolist() for _, labels in source.batches()] == [list(range(10))]


def test_a_generator_is_kept() -> None:
    source = open_source(({"x": row[None]} for row in samples()), FREE)
    assert seen(source) == list(range(10)) == seen(source)
    long = open_source(({"x": row[None]} for row in samples(30)), FREE)
    assert seen(long) == list(range(30)) == seen(long)


@pytest.mark.parametrize("parts", [[10], [6, 4], [4, 3, 3]])
def test_few_feeds_of_a_generator_are_split_by_samples(parts) -> None:
    def feeds():
        yield from (
            {"x": part, "labels": part[:, 0].astype(int)}
            for part in np.split(samples(), np.cumsum(parts)[:-1])
        )

    fit, held = split(open_source(feeds, FREE), 0.125)
    assert sorted(seen(fit) + seen(held)) == list(range(10))
    assert len(seen(held)) in (1, 2)


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_few_feeds_that_come_whole_are_split(count) -> None:
    def feeds():
        for number in range(count):
            yield {"x": samples(2 + number), "t": np.int64(number)}

    fit, held = split(open_source(feeds, STEP), 0.125)
    assert sorted(int(feed["t"]) for part in (fit, held) for feed in part) == list(range(count))
    assert list(fit)
    assert list(held)


def test_samples_of_different_length_come_in_batches_of_one_length() -> None:
    spec = (TensorSpec("x", ("N", "T", 2), F32),)
    lengths = [3, 3, 5, 5, 5, 4]
    source = open_source([np.full((n, 2), n, np.float32) for n in lengths], spec)
    assert [feed["x"].shape for feed in source] == [(2, 3, 2), (3, 5, 2), (1, 4, 2)]


def test_files_of_different_length(tmp_path) -> None:
    for number, length in enumerate([3, 5, 4]):
        np.save(tmp_path / f"{number}.npy", np.full((length, 2), number, np.float32))
    source = open_source(tmp_path, (TensorSpec("x", ("N", "T", 2), F32),))
    assert [feed["x"].shape for feed in source] == [(1, 3, 2), (1, 5, 2), (1, 4, 2)]


def test_a_number_beside_samples() -> None:
    lone = [{"x": row, "t": np.int64(number)} for number, row in enumerate(samples())]
    many = [{"x": samples(4), "t": np.arange(4)}, {"x": samples(3), "t": np.arange(3)}]
    one = [{"x": samples(4), "t": np.array(5)}, {"x": samples(3), "t": 6}]
    assert [(feed["x"].shape, int(feed["t"])) for feed in open_source(lone, STEP)] == [
        ((1, 3), n) for n in range(10)
    ]
    assert [(feed["x"].shape, int(feed["t"])) for feed in open_source(many, STEP)] == [
        ((1, 3), n) for n in (0, 1, 2, 3, 0, 1, 2)
    ]
    assert [(len(feed["x"]), int(feed["t"])) for feed in open_source(one, STEP, batch_size=2)] == [
        (2, 5), (2, 5), (2, 6), (1, 6)
    ]  # fmt: skip


def test_a_graph_with_its_edges_is_never_cut() -> None:
    spec = (TensorSpec("x", ("nodes", 3), F32), TensorSpec("edges", (2, "e"), I64))
    feeds = [{"x": samples(n), "edges": np.zeros((2, 2 * n), int)} for n in (5, 50, 7)]
    source = open_source(feeds, spec, batch_size=4)
    assert [len(feed["x"]) for feed in source.rebatch(1)] == [5, 50, 7]


def test_a_loader_for_a_batch_that_is_fixed() -> None:
    for fixed, expected in ((1, [1] * 10), (4, [4, 4])):
        spec = (TensorSpec("x", (fixed, 3), F32),)
        assert sizes(open_source(Loader(lambda x, y: [x, y], batch=10, count=10), spec)) == expected


def test_a_stream_that_is_shuffled_is_read_once() -> None:
    rng = np.random.default_rng(0)

    def shuffled():
        return ({"x": samples(40)[row : row + 1]} for row in rng.permutation(40))

    fit, held = split(open_source(shuffled, FREE), 0.125)
    assert sorted(seen(fit) + seen(held)) == list(range(40))
    assert seen(fit) == seen(fit)


def test_endless_generators_are_not_kept(monkeypatch) -> None:
    monkeypatch.setattr("obs_onnx.data.streams._KEPT_BYTES", 1000)
    with pytest.raises(DataError, match="can be read only once, and is too large to be kept: pass a list"):
        open_source(({"x": samples()} for _ in iter(int, 1)), FREE)


def test_arrays_without_names(tmp_path) -> None:
    np.savez(tmp_path / "one.npz", samples())
    assert seen(open_source(tmp_path / "one.npz", FREE)) == list(range(10))
    np.savez(tmp_path / "labelled.npz", samples(), labels=np.arange(10))
    assert open_source(tmp_path / "labelled.npz", FREE).has_labels
    np.savez(tmp_path / "two.npz", samples(), IDS)
    np.testing.assert_array_equal(next(iter(open_source(tmp_path / "two.npz", TWO)))["ids"], IDS)
    with pytest.raises(DataError, match="no array for input 'x'"):
        open_source(tmp_path / "two.npz", FREE)
