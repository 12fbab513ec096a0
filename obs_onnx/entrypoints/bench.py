"""bench(): models timed side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike

import onnx
import onnx_ir as ir

from obs_onnx.data.feeds import Feed
from obs_onnx.data.fixed import all_with_fixed, fixed_names
from obs_onnx.data.open_source import open_source
from obs_onnx.entrypoints.options.bench import BenchOptions
from obs_onnx.entrypoints.options.keywords import takes
from obs_onnx.io.onnx_file import ModelLike, open_model, serialize
from obs_onnx.latency import benchmark
from obs_onnx.latency.timing_feed import timing_feed
from obs_onnx.passes.errors import boundary
from obs_onnx.results.benchmark import Benchmark
from obs_onnx.runtimes import ModelSource, Runtime, Session, open_runtime
from obs_onnx.runtimes.sessions.model_files import open_session

__all__ = ["bench"]

Timed = ModelLike | bytes | Session
"""What can be timed."""

_NAMED = (str, PathLike)


@takes(BenchOptions)
def bench(models: Timed | Sequence[Timed], options: BenchOptions) -> Benchmark:
    """Time models side by side.

    Args:
        models: one or several files, models in memory, bytes or sessions; ratios are to the first.
        options: see :class:`obs_onnx.entrypoints.options.bench.BenchOptions`.

    Raises:
        OptionError: no models, or options that make no sense.
        ModelError, DataError, MissingRuntimeError: the models cannot be loaded or run.
    """
    several = (
        list(models) if isinstance(models, Sequence) and not isinstance(models, str | bytes) else [models]
    )
    where = open_runtime(options.runtime, options.threads, options.custom_ops)
    given = _stored(several, options)
    feed = options.feed
    if given and options.data is not None:
        with boundary("the models cannot be timed"):
            feed = _feed(where, given[0], options)
    found = benchmark.bench(
        given,
        where,
        batch=options.batch,
        feed=feed,
        sizes=options.lengths,
        seconds=options.seconds,
        min_runs=options.min_runs,
        pin=options.pin,
    )
    if options.data is None:
        return found
    name = options.data if isinstance(options.data, _NAMED) else type(options.data).__name__
    return replace(found, timed_on=f"the first samples of {name}")


def _stored(models: Sequence[Timed], options: BenchOptions) -> list[ModelSource | Session]:
    """Models as runtimes take them, with their inputs set where that is wanted."""
    known = (*_NAMED, onnx.ModelProto, ir.Model)
    read = {
        number: open_model(one, options.custom_domains)[0]
        for number, one in enumerate(models)
        if isinstance(one, known)
    }
    if options.fix:
        read = dict(zip(read, all_with_fixed(list(read.values()), options.fix), strict=True))
    found: list[ModelSource | Session] = []
    for number, one in enumerate(models):
        if isinstance(one, onnx.ModelProto | ir.Model) or (options.fix and number in read):
            found.append(serialize(read[number]))
        else:
            found.append(one)
    return found


def _feed(where: Runtime, model: ModelSource | Session, options: BenchOptions) -> Feed:
    """The first samples of the data, as many as are timed at once."""
    session = open_session(where, model) if isinstance(model, bytes | str | PathLike) else model
    source = open_source(
        options.data,
        session.inputs,
        batch_size=options.batch,
        labels_key=options.labels,
        preprocess=options.preprocess,
        without=fixed_names(options.fix),
        sizes=options.lengths,
        text=options.text,
    )
    return timing_feed(source, session.inputs, options.batch)
