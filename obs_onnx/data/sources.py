"""Sources: feeds that can be read any number of times, selected from and split.

Which axis is the batch is read off the model's inputs:

* free: the first axis of all inputs is the same free size; samples are cut into batches;
* fixed: it is the same number B everywhere; samples are grouped in B;
* none: anything else; every feed is given whole.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from obs_onnx.data.feeds import Feed, TensorSpec, check_names, conform, conform_feed, conform_labels
from obs_onnx.data.rows import Rows
from obs_onnx.passes.errors import DataError, OptionError, boundary

__all__ = ["Batch", "FeedSource", "Labels", "SampleSource", "Source", "batch_layout", "common_rows"]

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
        """Feed and labels of every batch: int64, one per sample or position; None without labels."""

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
            with boundary(f"{where}: cannot be read", DataError):
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
        held = _held_array(held_out, seed, groups)
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
        batches = self._batches()
        while True:
            with boundary(f"{self.where}: cannot be read", DataError, foreign=True):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _batches(self) -> Iterator[Batch]:
        items: Iterator[Batch] = self.make()
        for transform in self.transforms:
            items = transform(items)
        empty = True
        for feed, labels in self._collected(items) if self.single else self._checked(items):
            for one, theirs in self._cut(feed, labels):
                yield one, None if theirs is None else theirs.reshape(-1)
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
        known = self.known
        if known is not None and known < 2:
            raise DataError(
                f"{self.where}: only {known} of {self.unit}: give more, a part of them is held out"
            )
        held = None if known is None else _held_array(held_out, seed, known)

        def part(wanted: bool) -> FeedSource:
            def choose(items: Iterator[Batch]) -> Iterator[Batch]:
                flags = _held_out(held_out, seed) if held is None else iter(held.tolist())
                return (item for item in items if next(flags) == wanted)

            count = None if held is None else int((held == wanted).sum())
            return replace(self, transforms=(*self.transforms, choose), known=count)

        return part(False), part(True)

    def _checked(self, items: Iterator[Batch]) -> Iterator[Batch]:
        for number, (feed, labels) in enumerate(items):
            where = f"{self.where}, feed {number}"
            checked = conform_feed(feed, self.specs, where)
            size = None
            if self.layout != "none":
                size = common_rows({name: array.shape for name, array in checked.items()}, where)
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
                labels = conform_labels(np.array([label for _, label in chunk]), len(chunk), where)
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


def _held_out(share: float, seed: int) -> Iterator[bool]:
    """For sample 0, 1, 2, ... whether it is held out: one, at random, of every run of ``1 / share``."""
    rng = np.random.default_rng(seed)
    number = 0
    while True:
        low, high = math.ceil(number / share), math.ceil((number + 1) / share)
        chosen = int(rng.integers(low, high))
        yield from (index == chosen for index in range(low, high))
        number += 1


def _held_array(share: float, seed: int, count: int) -> NDArray[np.bool_]:
    """The first ``count`` of :func:`_held_out`, with at least one on either side."""
    flags = _held_out(share, seed)
    held = np.fromiter((next(flags) for _ in range(count)), np.bool_, count)
    if held.all() or not held.any():
        held[-1] = not held[-1]
    return held


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


def common_rows(shapes: Mapping[str, tuple[int, ...]], where: str) -> int:
    """The first size of all arrays, or a DataError."""
    (first, shape), *others = shapes.items()
    for name, other in others:
        if other[0] != shape[0]:
            raise DataError(
                f"{where}: array {first!r} has {shape[0]} samples, {name!r} has {other[0]}: make them equal"
            )
    return shape[0]
