"""Calibration and evaluation data: whatever the user has, as a stream of feeds.

A :class:`Source` gives complete feeds (dicts from input name to array), again and again the same ones, and
never holds more than one batch. Which axis is the batch is read off the model's inputs:

* free: the first axis of all inputs is the same free size; samples are cut into batches of ``batch_size``;
* fixed: it is the same number B everywhere; samples are grouped in B, a remainder is dropped with a note;
* none: anything else; every feed must be given whole, stacked along one more axis or as a folder of npz
  files.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from obs_onnx.feeds import (
    Array,
    Feed,
    TensorSpec,
    check_names,
    check_shape,
    check_type,
    conform,
    conform_feed,
    conform_labels,
)
from obs_onnx.passes.errors import DataError, OptionError
from obs_onnx.rows import ArrayRows, FileRows, RandomRows, Rows, natural, open_npy, open_npz

__all__ = ["FeedSource", "SampleSource", "Source", "open_source", "split"]

Labels = NDArray[np.int64]
Batch = tuple[Feed, Labels | None]


class Source(ABC):
    """Feeds that can be read any number of times, in the same order.

    Attributes:
        where: name for messages.
        notes: what the user should know, for example samples left out.
    """

    where: str
    notes: tuple[str, ...]

    @property
    @abstractmethod
    def unit(self) -> Literal["samples", "feeds"]:
        """What :attr:`count` counts: ``feeds`` where samples cannot be told apart."""

    @property
    @abstractmethod
    def has_labels(self) -> bool:
        """Whether every batch comes with labels."""

    @property
    @abstractmethod
    def count(self) -> int | None:
        """Number of samples or feeds; None if only reading them all would tell."""

    @abstractmethod
    def batches(self) -> Iterator[Batch]:
        """Feed and labels (int64, one per sample; None without labels) of every batch."""

    @abstractmethod
    def limit(self, count: int) -> Source:
        """At most ``count`` samples (spread evenly) or feeds (the first ones)."""

    @abstractmethod
    def rebatch(self, batch_size: int) -> Source:
        """The same samples in batches of another size where the model allows it."""

    @abstractmethod
    def split(self, held_out: float, seed: int) -> tuple[Source, Source]:
        """See :func:`split`."""

    def __iter__(self) -> Iterator[Feed]:
        return (feed for feed, _ in self.batches())


@dataclass(frozen=True, eq=False)
class SampleSource(Source):
    """Samples with an index: cheap to select from.

    Attributes:
        rows: input name -> rows.
        indices: of the rows in use, ascending.
        batch: rows per feed.
        group: rows that belong together (B of a fixed batch, else 1).
        stacked: each row is a complete feed.
        labels: one entry per row (stacked: one row of labels per feed), or None.
    """

    where: str
    specs: tuple[TensorSpec, ...]
    rows: Mapping[str, Rows]
    indices: NDArray[np.int64]
    batch: int
    group: int = 1
    stacked: bool = False
    labels: Labels | None = None
    notes: tuple[str, ...] = ()

    @property
    def unit(self) -> Literal["samples", "feeds"]:
        """Feeds if every row is one."""
        return "feeds" if self.stacked else "samples"

    @property
    def has_labels(self) -> bool:
        """Whether there are labels."""
        return self.labels is not None

    @property
    def count(self) -> int:
        """Number of rows in use."""
        return len(self.indices)

    def batches(self) -> Iterator[Batch]:
        """See :meth:`Source.batches`."""
        for start in range(0, self.count, self.batch):
            chosen = self.indices[start : start + self.batch]
            where = f"{self.where}, sample {chosen[0]}" + (f" to {chosen[-1]}" if len(chosen) > 1 else "")
            feed = {}
            for spec in self.specs:
                array = self.rows[spec.name].take(chosen)
                array = array[0] if self.stacked else array
                feed[spec.name] = conform(array, spec, where, first_axis=self.stacked)
            labels = None if self.labels is None else self.labels[chosen]
            yield feed, labels.reshape(-1) if labels is not None else None

    def limit(self, count: int) -> SampleSource:
        """See :meth:`Source.limit`; whole groups, at least one."""
        if count < 1:
            raise OptionError(f"{count} samples: use at least 1")
        groups, wanted = self.count // self.group, max(1, count // self.group)
        if wanted >= groups:
            return self
        return self._groups(np.arange(wanted) * groups // wanted)

    def rebatch(self, batch_size: int) -> SampleSource:
        """See :meth:`Source.rebatch`."""
        return self if self.stacked or self.group > 1 or self._fixed() else replace(self, batch=batch_size)

    def split(self, held_out: float, seed: int) -> tuple[SampleSource, SampleSource]:
        """See :func:`split`; by groups."""
        groups = self.count // self.group
        if groups < 2:
            what = "feed" if self.stacked else f"batch of {self.group}" if self.group > 1 else "sample"
            raise DataError(f"{self.where}: only one {what}: give more, a part of them is held out")
        chooser = _held_out(held_out, seed)
        held = np.fromiter((next(chooser) for _ in range(groups)), bool, groups)
        if not held.any() or held.all():
            held[-1] = not held[-1]
        return self._groups(np.flatnonzero(~held)), self._groups(np.flatnonzero(held))

    def _fixed(self) -> bool:
        return any(spec.shape and isinstance(spec.shape[0], int) for spec in self.specs)

    def _groups(self, groups: NDArray[np.int64]) -> SampleSource:
        return replace(self, indices=self.indices.reshape(-1, self.group)[groups].reshape(-1))


Transform = Callable[[Iterator[Batch]], Iterator[Batch]]


@dataclass(frozen=True, eq=False)
class FeedSource(Source):
    """Feeds that something else makes, one after the other.

    Attributes:
        make: gives a fresh iterator over raw (feed, labels) at every call.
        batch: rows per feed where ``layout`` is free: larger feeds are cut, single samples collected.
        layout: free, none, or the fixed batch.
        single: the items are samples without a batch axis.
        labelled: every item has labels.
        known: number of items, or None.
        transforms: selections, in order.
    """

    where: str
    specs: tuple[TensorSpec, ...]
    make: Callable[[], Iterator[Batch]]
    batch: int
    layout: int | Literal["free", "none"]
    single: bool
    labelled: bool
    known: int | None = None
    transforms: tuple[Transform, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def unit(self) -> Literal["samples", "feeds"]:
        """Samples if the items are such."""
        return "samples" if self.single else "feeds"

    @property
    def has_labels(self) -> bool:
        """Whether the first item had labels."""
        return self.labelled

    @property
    def count(self) -> int | None:
        """Number of items, if known."""
        return self.known

    def batches(self) -> Iterator[Batch]:
        """See :meth:`Source.batches`.

        Raises:
            DataError: an item does not fit, or there is none.
        """
        items: Iterator[Batch] = self.make()
        for transform in self.transforms:
            items = transform(items)
        empty = True
        for feed, labels in self._collected(items) if self.single else self._checked(items):
            yield from self._cut(feed, labels)
            empty = False
        if empty:
            raise DataError(f"{self.where}: gave no data")

    def limit(self, count: int) -> FeedSource:
        """See :meth:`Source.limit`."""
        if count < 1:
            raise OptionError(f"{count} {self.unit}: use at least 1")
        known = None if self.known is None else min(self.known, count)
        return replace(self, transforms=(*self.transforms, lambda items: islice(items, count)), known=known)

    def rebatch(self, batch_size: int) -> FeedSource:
        """See :meth:`Source.rebatch`."""
        return replace(self, batch=batch_size) if self.layout == "free" else self

    def split(self, held_out: float, seed: int) -> tuple[FeedSource, FeedSource]:
        """See :func:`split`; by items."""
        flags = _held_out(held_out, seed)
        known = self.known
        held = None if known is None else sum(next(flags) for _ in range(known))
        if known is not None and (held == 0 or held == known):
            raise DataError(
                f"{self.where}: only {known} {self.unit}: too few to hold out a part of {held_out}"
            )

        def part(wanted: bool) -> FeedSource:
            def choose(items: Iterator[Batch]) -> Iterator[Batch]:
                flags = _held_out(held_out, seed)
                return (item for item in items if next(flags) == wanted)

            count = None if known is None or held is None else held if wanted else known - held
            return replace(self, transforms=(*self.transforms, choose), known=count)

        return part(False), part(True)

    def _checked(self, items: Iterator[Batch]) -> Iterator[Batch]:
        for number, (feed, labels) in enumerate(items):
            where = f"{self.where}, feed {number}"
            checked = conform_feed(feed, self.specs, where)
            size = None
            if self.layout != "none":
                size = _common_rows({name: array.shape for name, array in checked.items()}, where)
            if labels is None:
                if self.labelled:
                    raise DataError(f"{where}: has no labels, the first one has: give them everywhere")
                yield checked, None
            else:
                yield checked, conform_labels(labels, size, where)

    def _collected(self, items: Iterator[Batch]) -> Iterator[Batch]:
        """Samples stacked into batches; the last, incomplete one only where the batch is free."""
        size = self.layout if isinstance(self.layout, int) else self.batch
        first = 0
        while chunk := list(islice(items, size)):
            where = f"{self.where}, sample {first} to {first + len(chunk) - 1}"
            if len(chunk) < size and self.layout != "free":
                if first == 0:
                    raise DataError(
                        f"{self.where}: the model takes batches of {size}, there are {len(chunk)}"
                    )
                return
            for feed, _ in chunk:
                check_names(feed, self.specs, where)
            try:
                feed = {s.name: np.stack([np.asarray(item[s.name]) for item, _ in chunk]) for s in self.specs}
            except ValueError as error:
                raise DataError(f"{where}: samples of different shapes: {error}") from error
            labels = None
            if self.labelled:
                labels = conform_labels(
                    np.array([label for _, label in chunk]).reshape(-1), len(chunk), where
                )
            yield conform_feed(feed, self.specs, where), labels
            first += len(chunk)

    def _cut(self, feed: Feed, labels: Labels | None) -> Iterator[Batch]:
        rows = len(next(iter(feed.values()))) if self.layout == "free" else 0
        if rows <= self.batch:
            yield feed, labels
            return
        for start in range(0, rows, self.batch):
            part = slice(start, start + self.batch)
            yield (
                {name: np.ascontiguousarray(array[part]) for name, array in feed.items()},
                None if labels is None else labels[part],
            )


def open_source(
    source: Any,
    specs: Sequence[TensorSpec],
    *,
    batch_size: int = 32,
    labels_key: str | None = None,
    seed: int = 0,
    preprocess: Mapping[str, Any] | str | PathLike[str] | None = None,
    sizes: Mapping[str, int] | None = None,
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
        preprocess: how images become arrays (see :mod:`obs_onnx.images`); by default ``preprocess.json``
            in their folder.
        sizes: values for named free sizes, for ``random:N``.

    Raises:
        DataError: missing, unreadable or empty data, or arrays that do not fit the model.
        OptionError: a batch size or number of random samples below 1.
        MissingRuntimeError: images without pillow.
    """
    if batch_size < 1:
        raise OptionError(f"batch_size={batch_size}: use at least 1")
    opener = _Opener(tuple(specs), batch_size, labels_key, seed, preprocess, sizes or {})
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


def _held_out(share: float, seed: int) -> Iterator[bool]:
    """For sample 0, 1, 2, ... whether it is held out: one, at random, of every run of ``1 / share``."""
    rng = np.random.default_rng(seed)
    number = 0
    while True:
        low, high = math.ceil(number / share), math.ceil((number + 1) / share)
        chosen = int(rng.integers(low, high))
        yield from (index == chosen for index in range(low, high))
        number += 1


def batch_layout(specs: Sequence[TensorSpec]) -> int | Literal["free", "none"]:
    """Which kind of first axis the inputs share; see the module's docstring."""
    firsts = [spec.shape[0] if spec.shape else None for spec in specs if spec.shape is not None]
    if not specs or any(spec.shape == () for spec in specs):
        return "none"
    if all(isinstance(size, int) for size in firsts) and firsts:
        return cast(int, firsts[0]) if len(set(firsts)) == 1 else "none"
    if any(isinstance(size, int) for size in firsts):
        return "none"
    return "free" if len({size for size in firsts if size is not None}) <= 1 else "none"


def _common_rows(shapes: Mapping[str, tuple[int, ...]], where: str) -> int:
    """The first size of all arrays, or a DataError."""
    (first, shape), *others = shapes.items()
    for name, other in others:
        if other[0] != shape[0]:
            raise DataError(
                f"{where}: array {first!r} has {shape[0]} samples, {name!r} has {other[0]}: make them equal"
            )
    return shape[0]


@dataclass(frozen=True)
class _Opener:
    """What all kinds of source need to be opened."""

    specs: tuple[TensorSpec, ...]
    batch_size: int
    labels_key: str | None
    seed: int
    preprocess: Mapping[str, Any] | str | PathLike[str] | None
    sizes: Mapping[str, int]

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
            known = len(source) if hasattr(source, "__len__") else None
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
            from obs_onnx.user_code import load_function

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
        rest = {name: array for name, array in arrays.items() if name in names or name not in (key, "labels")}
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
        count = _common_rows({spec.name: rows[spec.name].shape for spec in self.specs}, where)
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
            _common_rows({self.specs[0].name: (count,), key: labels.shape or (1,)}, where)
            checked = conform_labels(labels.reshape(-1), None, where, key).reshape(count, -1)
        elif labels is not None:
            checked = conform_labels(labels, count, where, key)
        layout = batch_layout(self.specs)
        group = layout if isinstance(layout, int) and not stacked else 1
        batch = 1 if stacked else layout if isinstance(layout, int) else self.batch_size
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
        from obs_onnx.images import open_images

        if len(self.specs) != 1:
            raise DataError(f"{folder}: holds no npz or npy files for {len(self.specs)} inputs")
        images = open_images(folder, self.specs[0], self.preprocess)
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
                except Exception as error:
                    raise DataError(f"{where}: failed with {type(error).__name__}: {error}") from error
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


def _read(reader: Any) -> Iterator[Mapping[str, Array]]:
    """Feeds of a CalibrationDataReader from its start."""
    try:
        reader.rewind()
    except (AttributeError, NotImplementedError) as error:
        raise DataError(
            f"{type(reader).__name__} cannot rewind: give it a rewind method, or pass a function that makes it"
        ) from error
    return iter(reader.get_next, None)


def _call(function: Callable[[], Any], where: str) -> Any:
    try:
        return function()
    except Exception as error:
        raise DataError(f"{where}: failed with {type(error).__name__}: {error}") from error
