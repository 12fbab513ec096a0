"""Batches for training: a source read again and again, in an order that only the seed and the step decide.

Step k of an endless run gives the same batch whether or not the steps before it were run in this process;
that is what makes a run that was resumed equal to one that was not interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from obs_onnx.data.feeds import Feed
from obs_onnx.data.sources import Batch, Labels, SampleSource, Source
from obs_onnx.training.augment import View, augmented

__all__ = ["TrainingBatch", "shuffled"]

_POOL = 16  # feeds of a stream among which the next one is drawn
_VIEWS = 1  # tells the random numbers of views from those of the order


@dataclass(frozen=True)
class TrainingBatch:
    """A feed.

    Attributes:
        feed: of the model's inputs.
        labels: one class per sample, or None.
        rows: numbers of the samples in the source, where it has such and they are as they are there.
    """

    feed: Feed
    labels: Labels | None
    rows: NDArray[np.int64] | None


def shuffled(
    source: Source, batch: int, seed: int, start: int = 0, augment: tuple[View, ...] = ()
) -> Iterator[TrainingBatch]:
    """Endless batches, from step ``start`` on.

    Samples are permuted anew in every epoch; those that fill no whole batch are left out of it. Feeds that
    come whole are permuted as such; those of a stream among the next few.

    Args:
        source: of at least one batch (or less, which is then the batch).
        batch: samples per step where the model's batch is free.
        seed: of the order.
        start: steps to skip.
        augment: random views of images, see :mod:`obs_onnx.training.augment`.
    """
    source = source.rebatch(batch)
    plain = (
        _sampled(source, seed, start) if isinstance(source, SampleSource) else _streamed(source, seed, start)
    )
    for step, item in enumerate(plain, start):
        if augment:
            item = TrainingBatch(augmented(item.feed, augment, (seed, _VIEWS, step)), item.labels, None)
        yield item


def _sampled(source: SampleSource, seed: int, start: int) -> Iterator[TrainingBatch]:
    group = source.axes.group
    size = group if source.axes.whole else min(source.batch, source.count)
    per_epoch = source.count // size
    units = source.indices.reshape(-1, group)
    together = size // group
    step = start
    while True:
        epoch, first = divmod(step, per_epoch)
        order = np.random.default_rng([seed, epoch]).permutation(len(units))
        for number in range(first, per_epoch):
            chosen = np.sort(order[number * together : (number + 1) * together])
            rows = units[chosen].reshape(-1)
            (feed, labels), *_ = replace(source, indices=rows, batch=size).batches()
            yield TrainingBatch(feed, labels, rows)
        step += per_epoch - first


def _streamed(source: Source, seed: int, start: int) -> Iterator[TrainingBatch]:
    return islice(_feeds(source, seed), start, None)


def _feeds(source: Source, seed: int) -> Iterator[TrainingBatch]:
    epoch = 0
    while True:
        random = np.random.default_rng([seed, epoch])
        pool: list[Batch] = []
        for item in source.batches():
            pool.append(item)
            if len(pool) == _POOL:
                feed, labels = pool.pop(int(random.integers(_POOL)))
                yield TrainingBatch(feed, labels, None)
        for index in random.permutation(len(pool)):
            feed, labels = pool[index]
            yield TrainingBatch(feed, labels, None)
        epoch += 1
