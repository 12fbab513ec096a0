"""Complete feeds run together: joined along the axes that hold their samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from obs_onnx.data.batch_axes import BatchAxes, Role
from obs_onnx.data.feeds import Array, Feed
from obs_onnx.data.sources import Batch, Labels, WrappedSource

__all__ = ["MergedSource", "fitted", "joined", "rows_of", "take_rows", "together"]

Axes = Mapping[str, int]


@dataclass(frozen=True, eq=False)
class MergedSource(WrappedSource):
    """The feeds of another source, as many at a time as make a batch.

    Feeds next to each other are joined where all else in them is the same: the sizes of other axes, and
    inputs without a batch axis.

    Attributes:
        along: batch axis of each input that has one.
        batch: samples per feed; feeds of more are cut.
    """

    along: Axes
    batch: int

    @property
    def axes(self) -> BatchAxes:  # type: ignore[override]  # it follows from the others
        """Samples can be picked from a feed where all of them lie along first axes."""
        roles = {name: Role.SAMPLES if name in self.along else Role.SHARED for name in self.inner.axes.roles}
        return BatchAxes(roles, self.inner.axes.count, whole=any(self.along.values()))

    def batches(self) -> Iterator[Batch]:
        """See :meth:`Source.batches`."""
        group: list[Batch] = []
        for item in self.inner.batches():
            if group and not together(group[-1][0], item[0], self.along):
                yield from self._cut(group)
                group = []
            group.append(item)
            if sum(rows_of(feed, self.along) for feed, _ in group) >= self.batch:
                yield from self._cut(group)
                group = []
        if group:
            yield from self._cut(group)

    def rebatch(self, batch_size: int) -> MergedSource:
        """See :meth:`Source.rebatch`."""
        return replace(self, batch=batch_size)

    def _cut(self, group: Sequence[Batch]) -> Iterator[Batch]:
        feed = joined([feed for feed, _ in group], self.along)
        given = [labels for _, labels in group if labels is not None]
        labels: Labels | None = np.concatenate(given) if given else None
        rows = rows_of(feed, self.along)
        if rows <= self.batch or (labels is not None and len(labels) != rows):
            yield feed, labels
            return
        for start in range(0, rows, self.batch):
            part = np.arange(start, min(start + self.batch, rows))
            yield take_rows(feed, self.along, part), None if labels is None else labels[part]


def rows_of(feed: Feed, axes: Axes) -> int:
    """Samples in a feed; 1 where no input has a batch axis."""
    return next((feed[name].shape[axis] for name, axis in axes.items()), 1)


def take_rows(feed: Feed, axes: Axes, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Feed:
    """The samples of a feed at ``rows``."""
    return {
        name: np.ascontiguousarray(array.take(rows, axes[name])) if name in axes else array
        for name, array in feed.items()
    }


def fitted(feed: Mapping[str, Array], axes: Axes, size: int) -> Feed:
    """A feed of exactly ``size`` samples; where there are fewer, some stand in it more than once."""
    whole = dict(feed)
    return take_rows(whole, axes, np.arange(size) % rows_of(whole, axes)) if axes else whole


def together(one: Feed, other: Feed, axes: Axes) -> bool:
    """Whether two feeds differ in nothing but their samples."""
    for name, array in one.items():
        there = other[name]
        if name not in axes:
            if array.shape != there.shape or not np.array_equal(array, there):
                return False
        elif np.delete(array.shape, axes[name]).tolist() != np.delete(there.shape, axes[name]).tolist():
            return False
    return bool(axes)


def joined(feeds: Sequence[Feed], axes: Axes) -> Feed:
    """One feed with the samples of all ``feeds``."""
    if len(feeds) == 1:
        return feeds[0]
    return {
        name: np.concatenate([feed[name] for feed in feeds], axes[name]) if name in axes else array
        for name, array in feeds[0].items()
    }
