"""Which way of letting a model take any number of samples is right: the one that gives the same outputs.

A reading of a model (see :mod:`obs_onnx.passes.batch.free_batch`) is taken if its outputs for several
feeds at once are those that the model gives for each of them, on the user's own data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import onnx_ir as ir

from obs_onnx.data.feeds import Array, Feed, TensorSpec
from obs_onnx.data.sources import Source
from obs_onnx.evaluation.merged import MergedSource, joined, rows_of, take_rows, together
from obs_onnx.passes.batch.batch_search import BatchAxis
from obs_onnx.passes.batch.free_batch import FreeBatch, free_batches
from obs_onnx.passes.errors import DataError, ModelError
from obs_onnx.runtimes import Runtime, Session
from obs_onnx.runtimes.bfloat16 import runnable
from obs_onnx.runtimes.sessions.partial_run import open_whole

__all__ = ["Open", "find_free_batch", "freed_source"]

_FEEDS, _LOOKED_AT = 3, 32  # that are compared, and among which they are looked for

Open = Callable[[Sequence[TensorSpec]], Source]


def find_free_batch(runtime: Runtime, model: ir.Model, open_data: Open) -> FreeBatch | None:
    """A form of ``model`` that takes any number of samples, where the model itself does not and has one.

    Args:
        runtime: where both run.
        model: as it came in.
        open_data: data for inputs that are as the given ones say.

    Raises:
        DataError: the data does not fit the model.
    """
    given: Session | None = None
    feeds: list[Feed] = []
    for one in free_batches(model):
        if given is None:
            given = open_whole(runtime, runnable(runtime, model)[0])
            feeds = list(islice(open_data(given.inputs).rebatch(one.size), _LOOKED_AT))
        if not one.inputs:
            return None if _takes_two(given, open_data) else one
        same = [feed for feed in feeds if together(feeds[0], feed, one.inputs)][:_FEEDS]
        if len(same) < 2 or any(rows_of(feed, one.inputs) != one.size for feed in same):
            continue
        if _gives_the_same(runtime, given, one, same):
            return one
    return None


def freed_source(batch: FreeBatch | None, specs: Sequence[TensorSpec], size: int, open_data: Open) -> Source:
    """Data for a model with a free batch.

    Args:
        batch: how it was made, or None for a model as it came in.
        specs: of its inputs.
        size: samples per feed.
        open_data: data for inputs that are as the given ones say.
    """
    if batch is None:
        return open_data(specs)
    if any(batch.inputs.values()):
        specs = [_fixed(spec, batch) for spec in specs]
        return MergedSource(open_data(specs), batch.inputs, size)
    source = open_data(specs)
    return source.rebatch(size) if source.unit == "samples" else MergedSource(source, batch.inputs, size)


def _fixed(spec: TensorSpec, batch: FreeBatch) -> TensorSpec:
    axis = batch.inputs.get(spec.name)
    if axis is None or spec.shape is None:
        return spec
    return replace(spec, shape=tuple(batch.size if k == axis else n for k, n in enumerate(spec.shape)))


def _takes_two(session: Session, open_data: Open) -> bool:
    """Whether the model runs on two samples at once, where there are two."""
    try:
        session.run(next(iter(open_data(session.inputs).rebatch(2))))
    except ModelError:
        return False
    return True


def _gives_the_same(runtime: Runtime, given: Session, one: FreeBatch, feeds: Sequence[Feed]) -> bool:
    """Whether outputs of the freed model for all feeds at once, and for one sample, are the given model's."""
    expected = [given.run(feed) for feed in feeds]
    try:
        freed = open_whole(runtime, runnable(runtime, one.model)[0])
        found = freed.run(joined(feeds, one.inputs))
        first = freed.run(take_rows(feeds[0], one.inputs, np.arange(1)))
    except (DataError, ModelError):
        return False
    parts = {name: _parts(y, one.outputs.get(name), len(feeds)) for name, y in found.items()}
    rows = {name: _parts(y, one.outputs.get(name), one.size)[0] for name, y in expected[0].items()}
    return all(
        _same(part, y[name])
        for name, all_parts in parts.items()
        for part, y in zip(all_parts, expected, strict=False)
    ) and all(_same(first[name], row) for name, row in rows.items())


def _parts(y: Array, where: BatchAxis | None, count: int) -> list[Array]:
    """An output of ``count`` equal parts of a batch, cut apart; an output without samples is the same for
    all."""
    if where is None:
        return [y] * count
    axis = where.axis
    if y.shape[axis] % (where.before * count):
        return [y[:0]] * count
    split = y.reshape(*y.shape[:axis], where.before, count, -1, *y.shape[axis + 1 :])
    shape = (*y.shape[:axis], y.shape[axis] // count, *y.shape[axis + 1 :])
    return [split.take(k, axis + 1).reshape(shape) for k in range(count)]


def _same(y: Array, expected: Array) -> bool:
    if y.shape != expected.shape or y.dtype != expected.dtype:
        return False
    if y.dtype.kind in "OUSbiu":
        return bool(np.array_equal(y, expected))
    a, b = y.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(b)
    tolerance = (1e-4 if y.dtype.itemsize >= 4 else 1e-2) * float(np.abs(b[finite]).max(initial=0.0))
    return bool(np.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True))
