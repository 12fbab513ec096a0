"""Sources: feeds that can be read any number of times, selected from and split.

:mod:`obs_onnx.data.batch_axes` says which array counts the samples. Here are samples that have an index;
feeds that come one after the other are in :mod:`obs_onnx.data.streams`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from obs_onnx.data.batch_axes import BatchAxes, Role
from obs_onnx.data.feeds import Array, Feed, TensorSpec, conform
from obs_onnx.data.language.filled_inputs import Filling
from obs_onnx.data.rows import Rows
from obs_onnx.passes.errors import DataError, OptionError, boundary

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Batch", "Labels", "SampleSource", "Source", "WrappedSource", "held_array", "held_out"]

Labels = NDArray[np.int64]
Batch = tuple[Feed, Labels | None]


class Source(ABC):
    """Feeds that can be read any number of times, in the same order.

    Attributes:
        where: name for messages.
        axes: how arrays become feeds.
        notes: what the user should know, for example samples left out.
    """

    where: str
    axes: BatchAxes
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

    def halves(self, seed: int = 0) -> tuple[Iterable[Feed], Iterable[Feed]]:
        """Two halves of the samples, the same ones however many are in a batch.

        The second one is empty where there is only one sample, or only one feed of samples that go together.
        """
        if self.count is not None and self.count <= self.axes.group:
            return self, ()
        return self.split(0.5, seed)

    def __iter__(self) -> Iterator[Feed]:
        return (feed for feed, _ in self.batches())


@dataclass(frozen=True, eq=False)
class WrappedSource(Source):
    """The feeds of another source, changed: named, noted and counted as there.

    Attributes:
        inner: the other source.
    """

    inner: Source

    @property
    def where(self) -> str:  # type: ignore[override]  # it follows from the other source, as the next two do
        """Name of the other source."""
        return self.inner.where

    @property
    def axes(self) -> BatchAxes:  # type: ignore[override]
        """What the arrays of the other source count."""
        return self.inner.axes

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Of the other source."""
        return self.inner.notes

    @property
    def unit(self) -> Literal["samples", "feeds"]:
        """As the other source counts."""
        return self.inner.unit

    @property
    def has_labels(self) -> bool:
        """Whether there are labels."""
        return self.inner.has_labels

    @property
    def count(self) -> int | None:
        """Of the other source."""
        return self.inner.count

    def limit(self, count: int) -> Self:
        """See :meth:`Source.limit`."""
        return replace(self, inner=self.inner.limit(count))

    def rebatch(self, batch_size: int) -> Self:
        """See :meth:`Source.rebatch`."""
        return replace(self, inner=self.inner.rebatch(batch_size))

    def split(self, held_out: float, seed: int) -> tuple[Self, Self]:
        """See :func:`obs_onnx.data.open_source.split`."""
        fit, held = self.inner.split(held_out, seed)
        return replace(self, inner=fit), replace(self, inner=held)


@dataclass(frozen=True, eq=False)
class SampleSource(Source):
    """Samples with an index: cheap to select from.

    Attributes:
        rows: input name -> rows: of samples, of feeds, or a single one for all of them.
        axes: which of these it is.
        indices: of the samples in use, ascending.
        batch: samples per feed.
        labels: one entry per sample (one row of labels per feed where no array counts samples), or None.
        filling: completes feeds with inputs that the data lacks; None where it lacks none.
    """

    where: str
    specs: tuple[TensorSpec, ...]
    rows: Mapping[str, Rows]
    axes: BatchAxes
    indices: NDArray[np.int64]
    batch: int
    labels: Labels | None = None
    notes: tuple[str, ...] = ()
    filling: Filling | None = None

    @property
    def unit(self) -> Literal["samples", "feeds"]:
        """Feeds if no array counts samples."""
        return "samples" if self.axes.samples else "feeds"

    @property
    def has_labels(self) -> bool:
        """Whether there are labels."""
        return self.labels is not None

    @property
    def count(self) -> int:
        """Number of samples in use."""
        return len(self.indices)

    def batches(self) -> Iterator[Batch]:
        """See :meth:`Source.batches`."""
        for start in range(0, self.count, self.batch):
            chosen = self.indices[start : start + self.batch]
            where = f"{self.where}, sample {chosen[0]}" + (f" to {chosen[-1]}" if len(chosen) > 1 else "")
            with boundary(f"{where}: cannot be read", DataError):
                feed = {
                    spec.name: conform(
                        self._array(spec.name, chosen),
                        spec,
                        where,
                        first_axis=self.axes.roles[spec.name] is not Role.SAMPLES,
                    )
                    for spec in self.specs
                }
                labels = None if self.labels is None else self.labels[chosen]
                if self.filling is not None:
                    feed = self.filling(feed)
            yield feed, labels.reshape(-1) if labels is not None else None

    def _array(self, name: str, chosen: NDArray[np.int64]) -> Array:
        rows, role = self.rows[name], self.axes.roles[name]
        if role is Role.SAMPLES:
            return rows.take(chosen)
        feed = int(chosen[0]) // self.axes.group if role is Role.FEEDS else 0
        row = rows.take(np.array([feed]))
        return np.repeat(row, len(chosen), axis=0) if role is Role.REPEATED else row[0, ...]

    def limit(self, count: int) -> SampleSource:
        """See :meth:`Source.limit`; whole groups, at least one."""
        if count < 1:
            raise OptionError(f"{count} samples: use at least 1")
        groups, wanted = self.count // self.axes.group, max(1, count // self.axes.group)
        if wanted >= groups:
            return self
        return self._groups(np.arange(wanted) * groups // wanted)

    def rebatch(self, batch_size: int) -> SampleSource:
        """See :meth:`Source.rebatch`."""
        return self if self.axes.whole else replace(self, batch=batch_size)

    def split(self, held_out: float, seed: int) -> tuple[SampleSource, SampleSource]:
        """See :func:`split`; by groups."""
        group = self.axes.group
        groups = self.count // group
        if groups < 2:
            what = "feed" if self.unit == "feeds" else f"batch of {group}" if group > 1 else "sample"
            raise DataError(f"{self.where}: only one {what}: give more, a part of them is held out")
        held = held_array(held_out, seed, groups)
        return self._groups(np.flatnonzero(~held)), self._groups(np.flatnonzero(held))

    def _groups(self, groups: NDArray[np.int64]) -> SampleSource:
        return replace(self, indices=self.indices.reshape(-1, self.axes.group)[groups].reshape(-1))


def held_out(share: float, seed: int) -> Iterator[bool]:
    """For sample 0, 1, 2, ... whether it is held out: one, at random, of every run of ``1 / share``."""
    rng = np.random.default_rng(seed)
    number = 0
    while True:
        low, high = math.ceil(number / share), math.ceil((number + 1) / share)
        chosen = int(rng.integers(low, high))
        yield from (index == chosen for index in range(low, high))
        number += 1


def held_array(share: float, seed: int, count: int) -> NDArray[np.bool_]:
    """The first ``count`` of :func:`held_out`, with at least one on either side."""
    flags = held_out(share, seed)
    held = np.fromiter((next(flags) for _ in range(count)), np.bool_, count)
    if held.all() or not held.any():
        held[-1] = not held[-1]
    return held
