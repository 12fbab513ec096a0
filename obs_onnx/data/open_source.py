"""Calibration and evaluation data: whatever the user has, opened as a :class:`Source` of feeds.

A source gives complete feeds (dicts from input name to array), again and again the same ones. Where the
model's batch is free, samples are cut into batches of ``batch_size``; where it is fixed to B they are grouped
in B and a remainder is dropped with a note. Which array counts the samples is told by the arrays, see
:mod:`obs_onnx.data.batch_axes`; whole feeds can be given stacked along one more axis, or as a folder of npz
files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from obs_onnx.data.array_files import open_npy, open_npz
from obs_onnx.data.batch_axes import BatchAxes, Role, batch_axes, common_rows, fits
from obs_onnx.data.feeds import Array, Repeated, TensorSpec, as_array, check_names, check_type, conform_labels
from obs_onnx.data.images.image_files import open_images
from obs_onnx.data.language.filled_inputs import Filling, find_filling, is_token_ids
from obs_onnx.data.language.text import is_text, text_files, windows
from obs_onnx.data.limits import check_room
from obs_onnx.data.options import TextReading
from obs_onnx.data.rows import ArrayRows, FileRows, RandomRows, Rows, concrete_shape, free_sizes, natural
from obs_onnx.data.sources import Labels, SampleSource, Source
from obs_onnx.data.streams import PEEK, FeedSource, Item, joined, kept, peek, same, take_labels, unpacked
from obs_onnx.data.user_function import called, load_function, rewound, told
from obs_onnx.passes.errors import DataError, OptionError, boundary

__all__ = ["FeedSource", "SampleSource", "Source", "open_source", "split"]

_MOST_RANDOM = 1_000_000  # samples; more say nothing that fewer do not


def open_source(
    source: Any,
    specs: Sequence[TensorSpec],
    *,
    batch_size: int = 32,
    labels_key: str | None = None,
    seed: int = 0,
    preprocess: object = None,
    sizes: Mapping[str, int] | None = None,
    memory: int | None = None,
    without: Collection[str] = (),
    text: TextReading | None = None,
) -> Source:
    """Open any kind of data for a model.

    Args:
        source: an npz file (arrays named like the inputs, first axis samples); a folder of npz files (each a
            complete feed), npy files, images or text; a file of text; ``module:function``; ``random:N``; a
            dict of arrays; an array (models with one input); an iterable of dicts; a function that returns
            one; an onnxruntime ``CalibrationDataReader``; or a :class:`Source`, returned as it is.
        specs: the model's inputs.
        batch_size: samples per feed where the model's batch is free.
        labels_key: name of the array of labels; by default ``labels`` if there is one.
        seed: of ``random:N``.
        preprocess: how images become arrays (a name, a dict or a JSON file, see
            :mod:`obs_onnx.data.images.preprocess`); by default ``preprocess.json`` in their folder.
        sizes: values for named free sizes: of caches that are filled in, and for ``random:N``.
        memory: bytes that one sample may take; by default half of what is free.
        without: names of arrays that are passed over, those of inputs that are set for good.
        text: how text becomes token ids.

    Raises:
        DataError: missing, unreadable or empty data, arrays that do not fit the model, or samples that are
            too large.
        OptionError: a batch size or number of random samples below 1.
        MissingRuntimeError: images without pillow, or text without tokenizers.
    """
    if batch_size < 1:
        raise OptionError(f"batch_size={batch_size}: use at least 1")
    reading, passed = text or TextReading(), frozenset(without)
    opener = _Opener(
        tuple(specs), batch_size, labels_key, seed, preprocess, sizes or {}, memory, passed, reading
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
    preprocess: object
    sizes: Mapping[str, int]
    memory: int | None
    without: frozenset[str]
    text: TextReading
    filling: Filling | None = None

    def _given(self, names: Collection[str]) -> _Opener:
        """For data with inputs of some names, from which the others are filled in where that is possible."""
        filling = find_filling(self.specs, names, self.sizes)
        if filling is None or not filling.kinds:
            return self
        return replace(self, specs=filling.asked, filling=filling)

    def _notes(self, axes: BatchAxes, where: str) -> tuple[str, ...]:
        return (*axes.notes(where), *(() if self.filling is None else self.filling.note(where)))

    @property
    def _least(self) -> _Opener:
        """For data of token ids alone, if that is enough."""
        return self._given([spec.name for spec in self.specs if is_token_ids(spec)])

    def open(self, source: Any) -> Source:
        """Dispatch on what ``source`` is."""
        if isinstance(source, Source):
            return source
        if isinstance(source, (str, PathLike)):
            return self._named(str(source))
        if isinstance(source, Mapping):
            return self._arrays(source, "data")
        if hasattr(source, "__array__") and hasattr(source, "shape"):  # of NumPy, PyTorch and others
            return self._arrays(self._only_input(source, "data"), "data")
        if hasattr(source, "get_next"):
            return self._feeds(lambda: rewound(source), type(source).__name__)
        if callable(source):
            return self._function(source, getattr(source, "__name__", "function"))
        name = type(source).__name__
        if isinstance(source, Repeated):
            return self._feeds(lambda: iter(source), source.where, once=True)
        if isinstance(source, Iterator):
            return self._feeds(lambda: source, name, once=True)
        if isinstance(source, Sequence) and len(source) == 1 and isinstance(source[0], Mapping):
            return self._arrays(source[0], "data")
        known = len(source) if isinstance(source, Sized) else None
        if isinstance(source, Iterable):
            return self._feeds(lambda: iter(source), name, known)
        if known is not None and hasattr(source, "__getitem__"):  # a dataset of PyTorch
            return self._feeds(lambda: (source[index] for index in range(known)), name, known)
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
            if is_text(path):
                return self._text(path)
            return self._arrays(open_npz(path), name)
        if ":" in name and path.suffix != ".npz":
            return self._function(load_function(name), name)
        raise DataError(
            f"{name}: no such file or folder (data is an npz, a text, a folder, module:function or random:N)"
        )

    def _text(self, path: Path) -> Source:
        ids = next((spec for spec in self.specs if is_token_ids(spec)), None)
        if ids is None:
            raise DataError(f"{path}: is text, but no input of the model takes token ids")
        rows = ArrayRows(windows(text_files(path), ids, self.text))
        return self._given([ids.name])._rows({ids.name: rows}, None, str(path))

    def _only_input(self, array: Any, where: str) -> dict[str, Any]:
        feed, _ = unpacked(as_array(array), self._ordered(1), None, where)
        return feed

    def _ordered(self, parts: int) -> tuple[TensorSpec, ...]:
        """The inputs that arrays without names are for: all of them, or those that are not filled in."""
        least = self._least.specs
        return least if parts < len(self.specs) and parts in (len(least), len(least) + 1) else self.specs

    def _own(self, arrays: Mapping[Any, Any]) -> dict[Any, Any]:
        """Arrays by name, without those that are passed over."""
        passed = self.without - {spec.name for spec in self.specs}
        return {name: array for name, array in arrays.items() if name not in passed}

    def _by_position(self, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        """Arrays that :func:`numpy.savez` was given without names, by those of the inputs in their order."""
        plain = [f"arr_{number}" for number in range(len(self.specs))]
        own = {name: array for name, array in arrays.items() if name not in (self.labels_key, "labels")}
        if set(own) != set(plain) or {spec.name for spec in self.specs} & set(own):
            return arrays
        rest = {name: array for name, array in arrays.items() if name not in own}
        return {**{spec.name: own[name] for spec, name in zip(self.specs, plain, strict=True)}, **rest}

    def _arrays(self, given: Mapping[str, Any], where: str) -> Source:
        arrays, labels = take_labels(self._by_position(self._own(given)), self.specs, self.labels_key, where)
        rows = {name: ArrayRows(as_array(array)) for name, array in arrays.items()}
        return self._given(rows)._rows(rows, labels, where)

    def _rows(self, rows: Mapping[str, Rows], labels: Any, where: str) -> SampleSource:
        """Samples from rows of all inputs."""
        check_names(rows, self.specs, where)
        axes = batch_axes(self.specs, {name: one.shape for name, one in rows.items()}, where)
        for spec in self.specs:
            check_type(rows[spec.name].dtype, spec, where)
        if axes.count == 0:
            raise DataError(f"{where}: array {self.specs[0].name!r} has no samples")
        rows = {
            name: ArrayRows(_all_of(one)[None]) if _is_one(axes, name, one, self.specs) else one
            for name, one in rows.items()
        }
        return self._samples(rows, axes, labels, where)

    def _samples(self, rows: Mapping[str, Rows], axes: BatchAxes, labels: Any, where: str) -> SampleSource:
        key, count = self.labels_key or "labels", axes.count
        checked: Labels | None = None
        if labels is not None and not axes.samples:
            labels = np.asarray(labels)
            common_rows({self.specs[0].name: (count,), key: labels.shape or (1,)}, where)
            checked = conform_labels(labels.reshape(-1), None, where, key).reshape(count, -1)
        elif labels is not None:
            checked = conform_labels(labels, count, where, key)
        row = sum(math.prod(one.shape[1:]) * max(1, one.dtype.itemsize) for one in rows.values())
        check_room(f"{where}: one sample", row, self.memory)
        batch = axes.group if axes.whole else self.batch_size
        check_room(f"{where}: a batch of {min(batch, count)} samples", row * min(batch, count))
        used = count - count % axes.group
        if used == 0:
            raise DataError(
                f"{where}: {count} samples, but the model takes batches of {axes.group}: give more"
            )
        notes = self._notes(axes, where)
        if used < count:
            left = f"the last {count - used} samples are left out"
            notes = (*notes, f"{where}: {left} (the model takes batches of {axes.group})")
        return SampleSource(
            where, self.specs, rows, axes, np.arange(used), batch, checked, notes, self.filling
        )

    def _random(self, number: str) -> SampleSource:
        count = int(number) if number.isdecimal() else 0
        if count < 1:
            raise OptionError(f"random:{number}: give the number of samples, for example random:256")
        if count > _MOST_RANDOM:
            raise OptionError(f"random:{number}: give at most {_MOST_RANDOM} samples, for example random:256")
        if self.filling is None and (least := self._least).filling is not None:
            return least._random(number)
        firsts = {spec.shape[0] if spec.shape else 0 for spec in self.specs if spec.shape is not None}
        fixed = {size for size in firsts if isinstance(size, int)}
        whole = 0 in fixed or (bool(fixed) and len(firsts) > 1)
        sizes = free_sizes(self.specs, self.sizes)
        rows: dict[str, Rows] = {}
        for spec in self.specs:
            shape = concrete_shape(spec, sizes)
            rows[spec.name] = RandomRows(spec, shape if whole else shape[1:], count, self.seed)
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
        if text_files(folder) and any(is_token_ids(spec) for spec in self.specs):
            return self._text(folder)
        if len(self.specs) != 1:
            raise DataError(f"{folder}: holds no npz or npy files for {len(self.specs)} inputs")
        images = open_images(folder, self.specs[0], self.preprocess, self.memory)
        return self._rows({self.specs[0].name: images}, images.labels, str(folder))

    def _npy_folder(self, folder: Path, files: list[Path]) -> Source:
        key = self.labels_key or "labels"
        names = [spec.name for spec in self.specs]
        there = {path.stem for path in (*files, *folder.iterdir())}
        if self.filling is None and (rest := self._given(there)).filling is not None:
            return rest._npy_folder(folder, files)
        labels = next((open_npy(path) for path in files if path.stem == key and key not in names), None)
        if self.labels_key is not None and labels is None:
            raise DataError(f"{folder}: no {key}.npy for the labels")
        passed = {key, *self.without} - set(names)
        files = [path for path in files if path.stem not in passed]
        if {path.stem for path in files} == set(names):
            return self._rows({path.stem: ArrayRows(open_npy(path)) for path in files}, labels, str(folder))
        parts: dict[str, list[Path]] = {}
        for spec in self.specs:
            subfolder = folder / spec.name
            own = sorted(subfolder.glob("*.npy"), key=natural) if subfolder.is_dir() else []
            if not own and len(self.specs) == 1:
                own = files
            if not own:
                raise DataError(f"{folder}: no npy files for input {spec.name!r}: put them into {subfolder}")
            parts[spec.name] = own
        if labels is None and len({len(own) for own in parts.values()}) == 1 and _vary(parts, self.specs):
            feeds = [dict(zip(parts, one, strict=True)) for one in zip(*parts.values(), strict=True)]
            return self._feeds(
                lambda: ({k: open_npy(p) for k, p in one.items()} for one in feeds), str(folder)
            )
        rows: dict[str, Rows] = {}
        for spec in self.specs:
            first = open_npy(parts[spec.name][0]).ndim
            rank = len(spec.shape) if spec.shape is not None else first
            rows[spec.name] = FileRows(parts[spec.name], rank if first > rank else max(rank - 1, 0))
        return self._rows(rows, labels, str(folder))

    def _function(self, function: Callable[[], Any], where: str) -> Source:
        first = called(function, where)
        if isinstance(first, (Mapping, np.ndarray, Source)):
            return self.open(first)

        def make() -> Iterator[Any]:
            made = called(function, where)
            return rewound(made) if hasattr(made, "get_next") else iter(made)

        if not isinstance(first, Iterable) and not hasattr(first, "get_next"):
            raise DataError(f"{where}: returned {type(first).__name__}: return an iterable of feeds")
        return self._feeds(make, where)

    def _feeds(
        self, make: Callable[[], Iterator[Any]], where: str, known: int | None = None, once: bool = False
    ) -> Source:
        """A stream; one that is short, or gives other items when it is read again, is kept in memory."""

        def items() -> Iterator[Item]:
            for item in told(make(), where):
                given = self._own(item) if isinstance(item, Mapping) else item
                parts = len(item) if isinstance(item, Sequence) else 1
                specs = self.specs if isinstance(item, Mapping) else self._ordered(parts)
                yield unpacked(given, specs, self.labels_key, where)

        if once:
            held = kept(items(), where)
            items = partial(iter, held)
            known = len(held)
        first = list(islice(items(), PEEK + 1))
        asked = self._given(first[0][0]) if first else self
        peeked = peek(iter(first), asked.specs, where)
        if peeked.complete:
            items, known = partial(iter, list(peeked.items)), len(peeked.items)
            if (found := joined(peeked, asked.specs)) is not None:
                arrays, labels = found
                return asked._rows({name: ArrayRows(array) for name, array in arrays.items()}, labels, where)
        elif not once and not same(next(items()), peeked.items[0]):
            held = kept(items(), where)
            items, known = partial(iter, held), len(held)
        labelled = peeked.items[0][1] is not None
        return FeedSource(
            where,
            asked.specs,
            items,
            peeked.axes,
            self.batch_size,
            peeked.single,
            labelled,
            known,
            notes=asked._notes(peeked.axes, where),
            filling=asked.filling,
        )


def _all_of(rows: Rows) -> Array:
    return rows.array if isinstance(rows, ArrayRows) else rows.take(np.arange(rows.shape[0]))


def _is_one(axes: BatchAxes, name: str, rows: Rows, specs: Sequence[TensorSpec]) -> bool:
    """Whether rows are a single value, and have no axis that counts it."""
    role = axes.roles[name]
    rank = next(None if spec.shape is None else len(spec.shape) for spec in specs if spec.name == name)
    return role is Role.SHARED or (role is Role.REPEATED and len(rows.shape) != rank)


def _vary(parts: Mapping[str, Sequence[Path]], specs: Sequence[TensorSpec]) -> bool:
    """Whether the files of an input differ in sizes that are free, and not in the number of rows alone."""
    shapes = {spec.name: [open_npy(path).shape for path in parts[spec.name]] for spec in specs}
    rows = {
        spec.name: [
            s[1:] if spec.shape is None or len(s) >= max(len(spec.shape), 1) else s for s in shapes[spec.name]
        ]
        for spec in specs
    }
    differ = any(len(set(own)) > 1 for own in rows.values())
    return differ and all(fits(spec, shape) for spec in specs for shape in shapes[spec.name])
