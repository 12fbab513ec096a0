"""evaluate(): accuracy, output error and agreement of a model on data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import onnx_ir as ir

from obs_onnx.data.fixed import Fixed, all_with_fixed, fixed_names, with_fixed
from obs_onnx.data.language.cache_sizes import implied_sizes
from obs_onnx.data.open_source import open_source
from obs_onnx.data.options import TextReading
from obs_onnx.data.sources import Source
from obs_onnx.evaluation.measures.metric import open_metric
from obs_onnx.evaluation.measures.options import AUTO, MeasureOptions
from obs_onnx.evaluation.measures.yardstick import HELD, read_outputs
from obs_onnx.evaluation.quality import Evaluation, evaluate_sessions, paired
from obs_onnx.io.onnx_file import from_proto, load_model, parse, serialize
from obs_onnx.passes.canonical.canonicalize import plain
from obs_onnx.passes.errors import ModelError, OptionError, boundary, named
from obs_onnx.runtimes import ModelSource, Runtime, Session, open_runtime
from obs_onnx.runtimes.sessions.model_files import open_session
from obs_onnx.verification.front import find_front

__all__ = ["evaluate"]

_FILES = (bytes, str, PathLike)


def evaluate(
    model: ModelSource | Session,
    data: Any,
    *,
    labels_key: str | None = None,
    preprocess: object = None,
    tokenizer: str | None = None,
    window: int | None = None,
    against: ModelSource | Session | None = None,
    task: str = AUTO,
    weight: Mapping[str, float] | None = None,
    metric: str | Callable[..., Any] | None = None,
    metric_lower_is_better: bool = False,
    custom_domains: Sequence[str] = (),
    runtime: Runtime | None = None,
    batch_size: int = 32,
    cut: Sequence[str] = (),
    fix: Fixed = (),
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Run a model over data, and measure.

    Two models are compared in front of the decisions in which the reference ends, where both have these
    places. Of one that ends in the choice of a class, the scores of all classes are looked at.

    Args:
        model: a file, its bytes, or a session.
        data: a source, or anything :func:`obs_onnx.data.open_source.open_source` opens.
        labels_key: name of the labels in the data; by default ``labels`` if there are any.
        preprocess: how images become arrays, see docs/data.md; by default ``preprocess.json`` beside them.
        tokenizer, window: how text becomes token ids, see :class:`obs_onnx.data.options.LabelName`.
        against: the reference for ``output_error`` and ``agreement``; it runs over the data twice, first for
            the spread of its outputs.
        task, weight, metric, metric_lower_is_better: see
            :class:`obs_onnx.evaluation.measures.options.MeasureOptions`.
        custom_domains: of operators that are known to the runtime alone.
        runtime: where to run files and bytes; onnxruntime by default.
        batch_size: samples per run where the model's batch is free.
        cut: values of both models at which they are compared instead; see
            :func:`obs_onnx.verification.front.find_front`.
        fix: inputs that are set first, in those of the models that have them; see
            :data:`obs_onnx.data.fixed.Fixed`.
        progress: called with the number of batches done.

    Raises:
        ModelError, DataError, OptionError, MissingRuntimeError: see :mod:`obs_onnx.passes.errors`.
    """
    with boundary("the model cannot be evaluated"):
        asked = MeasureOptions(
            task=task, weight=weight, metric=metric, metric_lower_is_better=metric_lower_is_better
        )
        if isinstance(model, _FILES) or isinstance(against, _FILES):
            runtime = runtime or open_runtime()
        if against is None and metric is None and not cut:
            model, axes = _scored(runtime, model, fix)
        else:
            model, against, axes = _compared(runtime, model, against, cut, fix)
        graph = _graph(model if against is None else against, custom_domains)
        session, reference = _open(model, runtime), None if against is None else _open(against, runtime)
        source = open_source(
            data,
            session.inputs,
            batch_size=batch_size,
            labels_key=labels_key,
            preprocess=preprocess,
            without=fixed_names(fix),
            sizes={} if graph is None else implied_sizes(graph),
            text=TextReading(tokenizer, window),
        )
        if reference is not None:
            paired(session, reference)
        source = _small_batches(session, source, batch_size)
        yardstick = read_outputs(
            session if reference is None else reference,
            source,
            model=graph,
            task=asked.task,
            weights=asked.weight,
            spreads=reference is not None,
            axes=axes,
        )
        found = evaluate_sessions(
            session,
            source,
            reference,
            yardstick=yardstick,
            metric=open_metric(asked.metric, asked.metric_lower_is_better, yardstick.task),
            progress=progress,
            trained=reference is None,
        )
        return replace(found, notes=source.notes)


def _small_batches(session: Session, source: Source, batch: int) -> Source:
    """The data in batches whose outputs may be held at once."""
    if batch == 1 or source.axes.whole:
        return source
    size = sum(y.nbytes for y in session.run(next(iter(source.limit(1).rebatch(1)))).values())
    most = HELD // max(size, 1)
    return source if most >= batch else source.rebatch(max(1, most))


def _open(given: ModelSource | Session, runtime: Runtime | None) -> Session:
    if not isinstance(given, _FILES):
        return given
    assert runtime is not None
    return open_session(runtime, given)


def _scored(
    runtime: Runtime | None, model: ModelSource | Session, fix: Fixed
) -> tuple[ModelSource | Session, Mapping[str, int]]:
    """What is measured of a model alone: the class scores in front of the classes that it ends in.

    Returns:
        The model, and axes of outputs along which what was cut off looks for classes.
    """
    if runtime is None or not isinstance(model, _FILES):
        return model, {}
    try:
        read = with_fixed(_read(model), fix) if fix else _read(model)
        front = find_front(runtime, read)
    except ModelError:  # the runtime takes it all the same
        if fix:
            raise
        return model, {}
    if front.class_axes:
        return serialize(front.model), front.class_axes
    return serialize(read) if fix else model, {}


def _compared(
    runtime: Runtime | None,
    model: ModelSource | Session,
    against: ModelSource | Session | None,
    cut: Sequence[str],
    fix: Fixed,
) -> tuple[ModelSource | Session, ModelSource | Session | None, Mapping[str, int]]:
    """What is measured of the models: of two, what lies in front of the reference's last decisions.

    Returns:
        Both, and axes of outputs along which what was cut off looks for classes.
    """
    if runtime is not None and isinstance(model, _FILES) and isinstance(against, _FILES):
        return _parts(runtime, model, against, cut, fix)
    if cut:
        raise OptionError(f"{named('cut')} is about two models that are compared: give their files")
    if fix and isinstance(model, _FILES):
        return serialize(with_fixed(_read(model), fix)), against, {}
    return model, against, {}


def _parts(
    runtime: Runtime, model: ModelSource, against: ModelSource, cut: Sequence[str], fix: Fixed
) -> tuple[ModelSource, ModelSource, Mapping[str, int]]:
    read = [_read(one) for one in (model, against)]
    small, dense = all_with_fixed(read, fix) if fix else read
    front, small = find_front(runtime, dense, cut), plain(small)
    if front.cut is None or not (front.is_in(small) or cut or front.foreign):
        return (serialize(small), serialize(dense), {}) if fix else (model, against, {})
    return serialize(front.part(small)), serialize(front.model), front.class_axes


def _read(model: ModelSource) -> ir.Model:
    if not isinstance(model, bytes):
        return load_model(model, custom_domains=None)
    if (proto := parse(model)) is None:
        raise ModelError("the bytes of the model are no ONNX model, or truncated")
    return from_proto(proto, custom_domains=None)


def _graph(given: ModelSource | Session | None, custom_domains: Sequence[str]) -> ir.Model | None:
    """A model in a form that can be looked at; None for one that only runs."""
    try:
        if isinstance(given, bytes):
            proto = parse(given)
            return None if proto is None else plain(from_proto(proto, custom_domains=custom_domains))
        if isinstance(given, (str, PathLike)):
            return plain(load_model(given, custom_domains=custom_domains))
    except ModelError:  # the runtime takes it all the same
        pass
    return None
