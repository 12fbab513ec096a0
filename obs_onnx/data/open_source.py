"""Calibration and evaluation data: whatever the user has, opened as a :class:`Source` of feeds.

A source gives complete feeds (dicts from input name to array), again and again the same ones, and never
holds more than one batch. Where the model's batch is free, samples are cut into batches of ``batch_size``;
where it is fixed to B they are grouped in B and a remainder is dropped with a note; a model without a common
first axis wants every feed whole: stacked along one more axis, or as a folder of npz files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from obs_onnx.data.array_files import open_npy, open_npz
from obs_onnx.data.feeds import (
    Array,
    Feed,
    TensorSpec,
    check_names,
    check_shape,
    check_type,
    conform_feed,
    conform_labels,
)
from obs_onnx.data.images import open_images
from obs_onnx.data.limits import check_batch, check_room
from obs_onnx.data.rows import ArrayRows, FileRows, RandomRows, Rows, natural
from obs_onnx.data.sources import Batch, FeedSource, Labels, SampleSource, Source, batch_layout, common_rows
from obs_onnx.data.user_function import load_function
from obs_onnx.passes.errors import DataError, OptionError, boundary
from obs_onnx.passes.printable import one_line

__all__ = ["FeedSource", "SampleSource", "Source", "concrete_shape", "open_source", "random_feed", "split"]

_MOST_RANDOM = 1_000_000  # samples; more say nothing that fewer do not


def open_source(
    source: Any,
    specs: Sequence[TensorSpec],
    *,
    batch_size: int = 32,
    labels_key: str | None = None,
    seed: int = 0,
    preprocess: Mapping[str, Any] | str | PathLike[str] | None = None,
    sizes: Mapping[str, int] | None = None,
    memory: int | None = None,
    without: Collection[str] = (),
) -> Source:
    """Open any kind of data for a model.

    Args:
        source: an npz file (arrays named like the inputs, first axis samples); a folder of npz files (each a
            complete feed), npy files or images; ``module:function``; ``random:N``; a dict of arrays; an array
            (models with one input); an iterable of dicts; a function that returns one; an onnxruntime
            ``CalibrationDataReader``; or a :class:`Source`, returned as it is.
        specs: the model's inputs.
        batch_size: samples per feed where the model's batch is free.
        labels_key: name of the array of labels; by default ``labels`` if there is one.
        seed: of ``random:N``.
        preprocess: how images become arrays (see :mod:`obs_onnx.data.images`); by default ``preprocess.json``
            in their folder.
        sizes: values for named free sizes, for ``random:N``.
        memory: bytes that one sample may take; by default half of what is free.
        without: names of arrays that are passed over, those of inputs that are set for good.

    Raises:
        DataError: missing, unreadable or empty data, arrays that do not fit the model, or samples that are
            too large.
        OptionError: a batch size or number of random samples below 1.
        MissingRuntimeError: images without pillow.
    """
    if batch_size < 1:
        raise OptionError(f"batch_size={batch_size}: use at least 1")
    opener = _Opener(
        tuple(specs), batch_size, labels_key, seed, preprocess, sizes or {}, memory, frozenset(without)
    )
    where = str(source) if isinstance(source, str | PathLike) else f"data ({type(source).__name__})"
    with boundary(f"{where}: cannot be opened", DataError, foreign=True):
        return opener.open(source)


def split(source: Source, held_out: float = 0.25, seed: int = 0) -> tuple[Source, Source]:
    """(fit, held out): a fixed share of samples (or feeds) kept apart, spread evenly over the source.

    One of every ``1 / held_out`` neighbours is drawn, so that sorted and streamed data split well; the same
    seed gives the same split.

    Raises:
        DataError: fewer than two samples.
        OptionError: ``held_out`` not between 0 and 1.
    """
    if not 0 < held_out < 1:
        raise OptionError(f"held-out share {held_out}: give a number between 0 and 1")
    return source.split(held_out, seed)


@dataclass(frozen=True)
class _Opener:
    """What all kinds of source need to be opened."""

    specs: tuple[TensorSpec, ...]
    batch_size: int
    labels_key: str | None
    seed: int
    preprocess: Mapping[str, Any] | str | PathLike[str] | None
    sizes: Mapping[str, int]
    memory: int | None
    without: frozenset[str]

    def open(self, source: Any) -> Source:
        """Dispatch on what ``source`` is."""
        if isinstance(source, Source):
            return source
        if isinstance(source, (str, PathLike)):
            return self._named(str(source))
        if isinstance(source, Mapping):
            return self._arrays(source, "data")
        if isinstance(source, np.ndarray):
            return self._arrays(self._only_input(source, "data"), "data")
        if hasattr(source, "get_next"):
            return self._feeds(lambda: _read(source), type(source).__name__)
        if callable(source):
            return self._function(source, getattr(source, "__name__", "function"))
        if isinstance(source, Iterator):
            raise DataError(
                f"a {type(source).__name__} can be read only once: pass a list, or a function that "
                "makes it anew"
            )
        if isinstance(source, Iterable):
            if isinstance(source, Sequence) and len(source) == 1 and isinstance(source[0], Mapping):
                return self._arrays(source[0], "data")
            known = len(source) if isinstance(source, Sized) else None
            return self._feeds(lambda: iter(source), type(source).__name__, known)
        raise DataError(f"a {type(source).__name__} is no source of data")

    def _named(self, name: str) -> Source:
        path = Path(name)
        if name.startswith("random:"):
            return self._random(name.removeprefix("random:"))
        if path.is_dir():
            return self._folder(path)
        if path.is_file():
            if path.suffix == ".npy":
                return self._arrays(self._only_input(open_npy(path), name), name)
            return self._arrays(open_npz(path), name)
        if ":" in name and path.suffix != ".npz":
            return self._function(load_function(name), name)
        raise DataError(
            f"{name}: no such file or folder (data is an npz, a folder, module:function or random:N)"
        )

    def _only_input(self, array: Any, where: str) -> dict[str, Any]:
        if len(self.specs) != 1:
            names = ", ".join(spec.name for spec in self.specs)
            raise DataError(f"{where}: one array without a name, but several inputs: name them {names}")
        return {self.specs[0].name: array}

    def _take_labels(self, arrays: Mapping[str, Any], where: str) -> tuple[dict[str, Any], Any]:
        """The inputs and the labels (or None) of a dict that may hold both."""
        names = {spec.name for spec in self.specs}
        key = self.labels_key or "labels"
        passed = {key, "labels", *self.without}
        rest = {name: array for name, array in arrays.items() if name in names or name not in passed}
        if key in names:
            return rest, None
        if self.labels_key is not None and key not in arrays:
            raise DataError(f"{where}: no array {key!r} for the labels (it has {', '.join(arrays)})")
        return rest, arrays.get(key)

    def _arrays(self, given: Mapping[str, Any], where: str) -> Source:
        arrays, labels = self._take_labels(given, where)
        return self._rows(
            {name: ArrayRows(np.asanyarray(array)) for name, array in arrays.items()}, labels, where
        )

    def _rows(self, rows: Mapping[str, Rows], labels: Any, where: str) -> SampleSource:
        """Samples from rows of all inputs; decides what the first axis is."""
        check_names(rows, self.specs, where)
        layout = batch_layout(self.specs)
        ranks = {s.name: len(rows[s.name].shape) - len(s.shape) for s in self.specs if s.shape is not None}
        stacked = bool(ranks) and set(ranks.values()) == {1}
        if layout == "none" and not stacked:
            for spec in self.specs:
                check_shape(rows[spec.name].shape, spec, where)
            rows = {name: row.whole() if isinstance(row, ArrayRows) else row for name, row in rows.items()}
            stacked = True
        for spec in self.specs:
            shape = rows[spec.name].shape
            check_shape(shape[1:] if stacked else shape, spec, where, first_axis=stacked, samples=not stacked)
            check_type(rows[spec.name].dtype, spec, where)
        count = common_rows({spec.name: rows[spec.name].shape for spec in self.specs}, where)
        if count == 0:
            raise DataError(f"{where}: array {self.specs[0].name!r} has no samples")
        return self._samples(rows, count, labels, stacked, where)

    def _samples(
        self, rows: Mapping[str, Rows], count: int, labels: Any, stacked: bool, where: str
    ) -> SampleSource:
        key = self.labels_key or "labels"
        checked: Labels | None = None
        if labels is not None and stacked:
            labels = np.asarray(labels)
            common_rows({self.specs[0].name: (count,), key: labels.shape or (1,)}, where)
            checked = conform_labels(labels.reshape(-1), None, where, key).reshape(count, -1)
        elif labels is not None:
            checked = conform_labels(labels, count, where, key)
        row = sum(math.prod(one.shape[1:]) * max(1, one.dtype.itemsize) for one in rows.values())
        check_room(f"{where}: one sample", row, self.memory)
        layout = batch_layout(self.specs)
        group = layout if isinstance(layout, int) and not stacked else 1
        batch = 1 if stacked else layout if isinstance(layout, int) else self.batch_size
        check_room(f"{where}: a batch of {min(batch, count)} samples", row * min(batch, count))
        used = count - count % group
        if used == 0:
            raise DataError(f"{where}: {count} samples, but the model takes batches of {group}: give more")
        notes: tuple[str, ...] = ()
        if used < count:
            left = count - used
            notes = (f"{where}: the last {left} samples are left out (the model takes batches of {group})",)
        return SampleSource(where, self.specs, rows, np.arange(used), batch, group, stacked, checked, notes)

    def _random(self, number: str) -> SampleSource:
        count = int(number) if number.isdecimal() else 0
        if count < 1:
            raise OptionError(f"random:{number}: give the number of samples, for example random:256")
        if count > _MOST_RANDOM:
            raise OptionError(f"random:{number}: give at most {_MOST_RANDOM} samples, for example random:256")
        stacked = batch_layout(self.specs) == "none"
        rows: dict[str, Rows] = {}
        for spec in self.specs:
            shape = concrete_shape(spec, self.sizes)
            rows[spec.name] = RandomRows(spec, shape if stacked else shape[1:], count, self.seed)
        return self._rows(rows, None, f"random:{count}")

    def _folder(self, folder: Path) -> Source:
        files = sorted((path for path in folder.iterdir() if path.is_file()), key=natural)
        npz = [path for path in files if path.suffix == ".npz"]
        npy = [path for path in files if path.suffix == ".npy"]
        subfolders = [path for path in folder.iterdir() if path.is_dir()]
        if npz:
            return self._feeds(lambda: (open_npz(path) for path in npz), str(folder), len(npz))
        if npy or any(any(path.glob("*.npy")) for path in subfolders):
            return self._npy_folder(folder, npy)
        if len(self.specs) != 1:
            raise DataError(f"{folder}: holds no npz or npy files for {len(self.specs)} inputs")
        images = open_images(folder, self.specs[0], self.preprocess, self.memory)
        return self._rows({self.specs[0].name: images}, images.labels, str(folder))

    def _npy_folder(self, folder: Path, files: list[Path]) -> SampleSource:
        key = self.labels_key or "labels"
        names = [spec.name for spec in self.specs]
        labels = next((open_npy(path) for path in files if path.stem == key and key not in names), None)
        if self.labels_key is not None and labels is None:
            raise DataError(f"{folder}: no {key}.npy for the labels")
        files = [path for path in files if path.stem != key or key in names]
        if {path.stem for path in files} == set(names):
            return self._rows({path.stem: ArrayRows(open_npy(path)) for path in files}, labels, str(folder))
        none = batch_layout(self.specs) == "none"
        rows: dict[str, Rows] = {}
        for spec in self.specs:
            subfolder = folder / spec.name
            own = sorted(subfolder.glob("*.npy"), key=natural) if subfolder.is_dir() else []
            if not own and len(self.specs) == 1:
                own = files
            if not own:
                raise DataError(f"{folder}: no npy files for input {spec.name!r}: put them into {subfolder}")
            rank = len(spec.shape) if spec.shape is not None else open_npy(own[0]).ndim
            rows[spec.name] = FileRows(own, rank if none else rank - 1)
        return self._rows(rows, labels, str(folder))

    def _function(self, function: Callable[[], Any], where: str) -> Source:
        first = _call(function, where)
        if isinstance(first, (Mapping, np.ndarray, Source)):
            return self.open(first)

        def make() -> Iterator[Any]:
            made = _call(function, where)
            return _read(made) if hasattr(made, "get_next") else iter(made)

        if not isinstance(first, Iterable) and not hasattr(first, "get_next"):
            raise DataError(f"{where}: returned {type(first).__name__}: return an iterable of feeds")
        return self._feeds(make, where)

    def _feeds(self, make: Callable[[], Iterator[Any]], where: str, known: int | None = None) -> FeedSource:
        def items() -> Iterator[Batch]:
            iterator = make()
            while True:
                try:
                    item = next(iterator)
                except StopIteration:
                    return
                except DataError:
                    raise
                except (Exception, SystemExit) as error:
                    raise DataError(
                        f"{where}: failed with {type(error).__name__}: {one_line(str(error))}"
                    ) from error
                labels = None
                if isinstance(item, tuple) and len(item) == 2:
                    item, labels = item
                if not isinstance(item, Mapping):
                    item = self._only_input(np.asarray(item), where)
                feed, own = self._take_labels(item, where) if labels is None else (dict(item), labels)
                yield feed, own

        first = next(items(), None)
        if first is None:
            raise DataError(f"{where}: gave no data")
        feed, labels = first
        check_names(feed, self.specs, where)
        layout = batch_layout(self.specs)
        ranked = [spec for spec in self.specs if spec.shape is not None]
        single = (
            layout != "none"
            and bool(ranked)
            and all(np.ndim(feed[spec.name]) == len(spec.shape or ()) - 1 for spec in ranked)
        )
        source = FeedSource(
            where, self.specs, items, self.batch_size, layout, single, labels is not None, known
        )
        if not single:
            conform_feed(feed, self.specs, f"{where}, feed 0")
        return source


def concrete_shape(spec: TensorSpec, sizes: Mapping[str, int], batch: int = 1) -> tuple[int, ...]:
    """The input's shape with every free size filled in.

    The first axis becomes ``batch``, named ones what ``sizes`` says, else 32 for images and 16 otherwise.

    Raises:
        DataError: an input of unknown rank.
    """
    if spec.shape is None:
        raise DataError(f"input {spec.name!r} has no rank in the model: give data instead of random:N")
    guess = 32 if len(spec.shape) >= 4 else 16
    return tuple(
        size if isinstance(size, int) else sizes.get(size or "", batch if axis == 0 else guess)
        for axis, size in enumerate(spec.shape)
    )


def random_feed(
    specs: Sequence[TensorSpec], batch: int = 1, sizes: Mapping[str, int] | None = None, seed: int = 0
) -> Feed:
    """One complete random feed with ``batch`` samples where the batch is free.

    Args:
        specs: the model's inputs.
        batch: size of a free first axis.
        sizes: values of named free sizes.
        seed: the same seed gives the same feed.

    Raises:
        DataError: an input of unknown rank, or of strings.
    """
    check_batch(specs, batch)
    shapes = {spec.name: concrete_shape(spec, sizes or {}, batch) for spec in specs}
    return {spec.name: RandomRows(spec, shapes[spec.name], 1, seed).take(np.arange(1))[0] for spec in specs}


def _read(reader: Any) -> Iterator[Mapping[str, Array]]:
    """Feeds of a CalibrationDataReader from its start."""
    try:
        reader.rewind()
    except (AttributeError, NotImplementedError) as error:
        raise DataError(
            f"{type(reader).__name__} cannot rewind: give it that method, or pass a function that makes it"
        ) from error
    return iter(reader.get_next, None)


def _call(function: Callable[[], Any], where: str) -> Any:
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise DataError(f"{where}: failed with {type(error).__name__}: {one_line(str(error))}") from error
