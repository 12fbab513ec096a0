"""Feeds that something else makes one after the other: folders, functions, readers, loaders of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from typing import Any, Literal

import numpy as np

from obs_onnx.data.batch_axes import BatchAxes, Role, batch_axes, common_rows
from obs_onnx.data.feeds import (
    Array,
    Feed,
    TensorSpec,
    as_array,
    check_names,
    check_shape,
    check_type,
    conform_labels,
    is_float,
)
from obs_onnx.data.language.filled_inputs import Filling
from obs_onnx.data.rows import ArrayRows
from obs_onnx.data.sources import Batch, Labels, SampleSource, Source, held_array, held_out
from obs_onnx.passes.errors import DataError, OptionError, boundary

__all__ = ["FeedSource", "Item", "Peeked", "joined", "kept", "peek", "unpacked"]

Item = tuple[dict[str, Array], Any]
"""Arrays by the names of inputs, and labels as they came (or None)."""
Transform = Callable[[Iterator[Item]], Iterator[Item]]

PEEK = 8  # items that are looked at when a stream is opened; one of fewer is kept in memory
_KEPT_BYTES = 1 << 30  # of a stream that can be read only once, and of a short one


@dataclass(frozen=True)
class Peeked:
    """The first items of a stream, and what they are.

    Attributes:
        items: the first ones.
        complete: there are no more.
        single: they are samples without a batch axis.
        axes: how each of them becomes feeds.
    """

    items: Sequence[Item]
    complete: bool
    single: bool
    axes: BatchAxes


def unpacked(item: Any, specs: Sequence[TensorSpec], labels_key: str | None, where: str) -> Item:
    """Arrays by name, and labels, of what a stream gives.

    A dict is by name. A tuple or list has the inputs in their order, and maybe the labels behind them; or the
    inputs in a dict, tuple or list, and the labels. Anything else is the only input. What stands behind the
    inputs and is no class per sample (a box, a target of a regression) is left out.

    Raises:
        DataError: there is not one part for each input.
    """
    if isinstance(item, Mapping):
        return take_labels({str(name): as_array(one) for name, one in item.items()}, specs, labels_key, where)
    if not isinstance(item, tuple | list) or not _is_positional(item, len(specs)):
        if len(specs) != 1:
            raise DataError(
                f"{where}: one array without a name, but several inputs: name them {_names(specs)}"
            )
        return {specs[0].name: as_array(item)}, None
    first, *rest = item
    if len(item) == 2 and isinstance(first, Mapping):
        return {str(name): as_array(one) for name, one in first.items()}, _classes(item[1])
    if len(item) == 2 and isinstance(first, tuple | list) and len(first) == len(specs):
        item = (*first, *rest)
    if len(item) not in (len(specs), len(specs) + 1):
        raise DataError(
            f"{where}: gives {len(item)} parts at a time, the model has {len(specs)} inputs: give a dict "
            f"with the names {_names(specs)}"
        )
    feed = {spec.name: as_array(one) for spec, one in zip(specs, item, strict=False)}
    return feed, _classes(item[-1]) if len(item) > len(specs) else None


def take_labels(
    arrays: Mapping[str, Array], specs: Sequence[TensorSpec], labels_key: str | None, where: str
) -> Item:
    """The inputs and the labels (or None) of a dict that may hold both."""
    names = {spec.name for spec in specs}
    key = labels_key or "labels"
    rest = {name: array for name, array in arrays.items() if name in names or name not in (key, "labels")}
    if key in names:
        return rest, None
    if labels_key is not None and key not in arrays:
        raise DataError(f"{where}: no array {key!r} for the labels (it has {', '.join(arrays)})")
    return rest, arrays.get(key)


def _is_positional(item: Sequence[Any], inputs: int) -> bool:
    """Whether a tuple or list holds several arrays, rather than being one."""
    if not item or (isinstance(item, list) and not all(_is_part(part) for part in item)):
        return False
    if inputs == 1 and isinstance(item, list):
        return len(item) == 1 or (len(item) == 2 and _rank(item[1]) < _rank(item[0]))
    return isinstance(item, list) or len(item) > 1 or _is_part(item[0])


def _is_part(part: Any) -> bool:
    return hasattr(part, "shape") or isinstance(part, Mapping | tuple | list)


def _rank(part: Any) -> int:
    return (
        len(part.shape)
        if hasattr(part, "shape")
        else len(np.shape(part))
        if not isinstance(part, Mapping)
        else 99
    )


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(spec.name for spec in specs)


def _classes(labels: Any) -> Array | None:
    """Labels, where they can be one class per sample."""
    if labels is None or isinstance(labels, Mapping | str):
        return None
    found = as_array(labels)
    flat = found.ndim < 2 or (found.ndim == 2 and found.shape[1] == 1)
    return found if flat and found.dtype.kind in "iu" else None


def peek(items: Iterator[Item], specs: Sequence[TensorSpec], where: str) -> Peeked:
    """The first items of a stream, checked.

    Raises:
        DataError: there are none, or they do not fit.
    """
    first = list(islice(items, PEEK + 1))
    if not first:
        raise DataError(f"{where}: gave no data")
    found: list[BatchAxes] = []
    single = all(
        spec.shape is not None and len(spec.shape) - 1 == _rank(feed.get(spec.name, spec))
        for feed, _ in first
        for spec in specs
    )
    for number, (feed, _) in enumerate(first):
        what = f"{where}, sample {number}" if single else f"{where}, feed {number}"
        check_names(feed, specs, what if number else where)
        for spec in specs:
            check_type(feed[spec.name].dtype, spec, what)
        shapes = {name: one.shape for name, one in batched(feed, specs, single).items()}
        axes = batch_axes(specs, shapes, what)
        tables = any(feed[name].size > 1 for name in axes.names(Role.SHARED))
        found.append(replace(axes, whole=axes.whole or tables))
    return Peeked(first[:PEEK], len(first) <= PEEK, single, _merged(found))


def batched(feed: Mapping[str, Array], specs: Sequence[TensorSpec], single: bool) -> dict[str, Array]:
    """The arrays with a batch of one in front, where all lack it (``single``) or those of one sample do."""
    lacking = {
        spec.name
        for spec in specs
        if spec.shape
        and feed[spec.name].ndim == len(spec.shape) - 1
        and (single or spec.shape[0] == 1 or not isinstance(spec.shape[0], int))
    }
    lone = single or all(
        spec.name in lacking or not spec.shape or feed[spec.name].shape == (1,) for spec in specs
    )
    return {name: one[None] if lone and name in lacking else one for name, one in feed.items()}


def _merged(found: Sequence[BatchAxes]) -> BatchAxes:
    """What holds for all items: a feed is cut only where that can take nothing apart."""
    first, *others = found
    same = all((one.roles, one.group) == (first.roles, first.group) for one in others)
    whole = any(one.whole for one in found)
    if same:
        return replace(first, whole=whole)
    shared = all(set(one.roles.values()) <= {Role.SAMPLES, Role.SHARED} for one in found)
    roles = {
        name: role if all(one.roles[name] is role for one in others) else Role.SHARED
        for name, role in first.roles.items()
    }
    return BatchAxes(roles, 1, 1, whole=True) if shared else first


def kept(items: Iterator[Item], where: str) -> list[Item]:
    """All items of a stream that can be read only once.

    Raises:
        DataError: it is longer than what is kept.
    """
    found, size = [], 0
    for item in items:
        size += sum(array.nbytes for array in item[0].values())
        if size > _KEPT_BYTES:
            raise DataError(
                f"{where}: gives other data whenever it is read, or can be read only once, and is too large "
                "to be kept: pass a list, or a function that makes the same again"
            )
        found.append(item)
    return found


def joined(peeked: Peeked, specs: Sequence[TensorSpec]) -> tuple[dict[str, Array], Array | None] | None:
    """The arrays and labels of a short stream as one, so that its samples can be told apart.

    None where the items differ in shape, or hold more than samples.
    """
    feeds = [batched(feed, specs, peeked.single) for feed, _ in peeked.items]
    labels = [own for _, own in peeked.items if own is not None]
    sizes = sum(array.nbytes for feed in feeds for array in feed.values())
    rows = {array.shape[1:] for name in peeked.axes.roles for array in [feeds[0][name]]}
    alike = all(feed[name].shape[1:] == one.shape[1:] for feed in feeds for name, one in feeds[0].items())
    samples = set(peeked.axes.roles.values()) == {Role.SAMPLES}
    if not (rows and alike and samples) or sizes > _KEPT_BYTES or len(labels) not in (0, len(feeds)):
        return None
    arrays = {spec.name: np.concatenate([feed[spec.name] for feed in feeds]) for spec in specs}
    return arrays, np.concatenate([np.ravel(own) for own in labels]) if labels else None


@dataclass(frozen=True, eq=False)
class FeedSource(Source):
    """Feeds that something else makes, one after the other.

    Attributes:
        make: gives a fresh iterator over items at every call.
        axes: how an item becomes feeds; its ``count`` says nothing.
        batch: samples per feed, where that is free: larger items are cut, single samples collected.
        single: the items are samples without a batch axis.
        labelled: every item has labels.
        known: number of items, or None.
        transforms: selections, in order.
        filling: completes feeds with inputs that the data lacks; None where it lacks none.
    """

    where: str
    specs: tuple[TensorSpec, ...]
    make: Callable[[], Iterator[Item]]
    axes: BatchAxes
    batch: int
    single: bool
    labelled: bool
    known: int | None = None
    transforms: tuple[Transform, ...] = ()
    notes: tuple[str, ...] = ()
    filling: Filling | None = None

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
        items: Iterator[Item] = self.make()
        for transform in self.transforms:
            items = transform(items)
        found = self._collected(items) if self.single else self._whole(items)
        first = next(found, None)
        if first is None:
            few = f", or less than the {self.axes.group} samples of a batch" if self.axes.group > 1 else ""
            raise DataError(f"{self.where}: gave no data{few}")
        yield from chain([first], found)

    def limit(self, count: int) -> FeedSource:
        """See :meth:`Source.limit`."""
        if count < 1:
            raise OptionError(f"{count} {self.unit}: use at least 1")
        known = None if self.known is None else min(self.known, count)
        return replace(self, transforms=(*self.transforms, lambda items: islice(items, count)), known=known)

    def rebatch(self, batch_size: int) -> FeedSource:
        """See :meth:`Source.rebatch`."""
        return self if self.axes.whole else replace(self, batch=batch_size)

    def split(self, held_out_share: float, seed: int) -> tuple[FeedSource, FeedSource]:
        """See :func:`split`; by items."""
        known = self.known
        if known is not None and known < 2:
            raise DataError(
                f"{self.where}: only {known} of {self.unit}: give more, a part of them is held out"
            )
        held = None if known is None else held_array(held_out_share, seed, known)

        def part(wanted: bool) -> FeedSource:
            def choose(items: Iterator[Item]) -> Iterator[Item]:
                flags = held_out(held_out_share, seed) if held is None else iter(held.tolist())
                return (item for item in items if next(flags) == wanted)

            count = None if held is None else int((held == wanted).sum())
            return replace(self, transforms=(*self.transforms, choose), known=count)

        return part(False), part(True)

    def _whole(self, items: Iterator[Item]) -> Iterator[Batch]:
        for number, (feed, labels) in enumerate(items):
            where = f"{self.where}, feed {number}"
            check_names(feed, self.specs, where)
            yield from self._cut(batched(feed, self.specs, self.single), labels, where)

    def _collected(self, items: Iterator[Item]) -> Iterator[Batch]:
        """Samples stacked into batches, those of one shape together."""
        size, first = self.axes.group if self.axes.whole else self.batch, 0
        while chunk := list(islice(items, size)):
            where = f"{self.where}, sample {first} to {first + len(chunk) - 1}"
            for feed, labels in chunk:
                check_names(feed, self.specs, where)
                if self.labelled and labels is None:
                    raise DataError(f"{where}: has no labels everywhere: give them to every sample")
            for _, same in groupby(chunk, key=lambda item: [item[0][spec.name].shape for spec in self.specs]):
                together = list(same)
                feed = {s.name: np.stack([item[s.name] for item, _ in together]) for s in self.specs}
                labels = np.array([label for _, label in together]) if self.labelled else None
                yield from self._cut(feed, labels, where)
            first += len(chunk)

    def _cut(self, feed: Feed, labels: Any, where: str) -> Iterator[Batch]:
        """The feeds of an item."""
        for spec in self.specs:
            one, role = feed[spec.name], self.axes.roles[spec.name]
            shape = one.shape[1:] if role is Role.FEEDS else one.shape
            check_shape(shape, spec, where, first_axis=role is not Role.SAMPLES)
            check_type(one.dtype, spec, where)
        counted = {name: feed[name].shape for name in (self.axes.samples or self.axes.names(Role.FEEDS))}
        count = common_rows(counted, where) if counted else 1
        own = self._labels(labels, count, where)
        count -= count % self.axes.group
        if count == 0:
            return
        rows = {
            name: ArrayRows(feed[name] if role in (Role.SAMPLES, Role.FEEDS) else feed[name][None])
            for name, role in self.axes.roles.items()
        }
        batch = self.batch if not self.axes.whole else self.axes.group if self._parts else count
        source = SampleSource(
            where, self.specs, rows, self.axes, np.arange(count), batch, own, (), self.filling
        )
        yield from source.batches()

    @property
    def _parts(self) -> bool:
        """Items hold several complete feeds, rather than being one."""
        fixed = {spec.name for spec in self.specs if spec.shape and isinstance(spec.shape[0], int)}
        return bool(self.axes.names(Role.FEEDS)) or bool(fixed & set(self.axes.samples))

    def _labels(self, labels: Any, count: int, where: str) -> Labels | None:
        if labels is None:
            if self.labelled:
                raise DataError(f"{where}: has no labels, the first one has: give them everywhere")
            return None
        if not self.axes.samples:
            return conform_labels(np.ravel(labels), None, where).reshape(count, -1)
        return conform_labels(np.atleast_1d(labels), count, where)


def same(one: Item, other: Item) -> bool:
    """Whether two items hold the same numbers."""
    return one[0].keys() == other[0].keys() and all(
        np.array_equal(array, other[0][name], equal_nan=is_float(array.dtype))
        for name, array in one[0].items()
    )
