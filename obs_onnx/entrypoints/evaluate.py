"""evaluate(): accuracy, output error and agreement of a model on data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike

import onnx
import onnx_ir as ir

from obs_onnx.data.fixed import Fixed, all_with_fixed, fixed_names, with_fixed
from obs_onnx.data.language.cache_sizes import implied_sizes
from obs_onnx.data.open_source import open_source
from obs_onnx.data.sources import Source
from obs_onnx.entrypoints.options.evaluate import EvaluateOptions
from obs_onnx.entrypoints.options.keywords import takes
from obs_onnx.evaluation.measures.metric import open_metric
from obs_onnx.evaluation.measures.yardstick import HELD, read_outputs
from obs_onnx.evaluation.quality import Evaluation, evaluate_sessions, paired
from obs_onnx.io.onnx_file import ModelLike, from_proto, load_model, parse, serialize
from obs_onnx.passes.canonical.canonicalize import plain
from obs_onnx.passes.errors import ModelError, OptionError, boundary, named
from obs_onnx.runtimes import ModelSource, Runtime, Session, open_runtime
from obs_onnx.runtimes.sessions.model_files import open_session
from obs_onnx.verification.front import find_front

__all__ = ["evaluate"]

_FILES = (bytes, str, PathLike)


@takes(EvaluateOptions)
def evaluate(model: ModelLike | bytes | Session, options: EvaluateOptions) -> Evaluation:
    """Run a model over data, and measure.

    Two models are compared in front of the decisions in which the reference ends, where both have these
    places. Of one that ends in the choice of a class, the scores of all classes are looked at. A reference
    runs over the data twice, first for the spread of its outputs.

    Args:
        model: a file, a model in memory, its bytes, or a session.
        options: see :class:`obs_onnx.entrypoints.options.evaluate.EvaluateOptions`.

    Raises:
        ModelError, DataError, OptionError, MissingRuntimeError: see :mod:`obs_onnx.passes.errors`.
    """
    with boundary("the model cannot be evaluated"):
        given = _stored(model)
        against = None if options.against is None else _stored(options.against)
        runtime = None
        if isinstance(given, _FILES) or isinstance(against, _FILES):
            runtime = open_runtime(options.runtime, options.threads, options.custom_ops)
        if against is None and options.metric is None and not options.cut:
            given, axes = _scored(runtime, given, options.fix)
        else:
            given, against, axes = _compared(runtime, given, against, options.cut, options.fix)
        graph = _graph(given if against is None else against, options.custom_domains)
        session, reference = _open(given, runtime), None if against is None else _open(against, runtime)
        source = _source(session, graph, options)
        if reference is not None:
            paired(session, reference)
        source = _small_batches(session, source, options.batch_size)
        yardstick = read_outputs(
            session if reference is None else reference,
            source,
            model=graph,
            task=options.task,
            weights=options.weight,
            spreads=reference is not None,
            axes=axes,
        )
        with options.shown.stage("evaluate") as advance:
            found = evaluate_sessions(
                session,
                source,
                reference,
                yardstick=yardstick,
                metric=open_metric(options.metric, options.metric_lower_is_better, yardstick.task),
                progress=lambda _: advance(1),
                trained=reference is None,
            )
        return replace(found, notes=source.notes)


def _stored(model: ModelLike | bytes | Session) -> ModelSource | Session:
    """A model as runtimes take it: one in memory as its bytes."""
    if isinstance(model, onnx.ModelProto):
        return serialize(from_proto(model, custom_domains=None))
    return serialize(model) if isinstance(model, ir.Model) else model


def _source(session: Session, graph: ir.Model | None, options: EvaluateOptions) -> Source:
    """The data for the inputs of a session."""
    return open_source(
        options.data,
        session.inputs,
        batch_size=options.batch_size,
        labels_key=options.labels,
        preprocess=options.preprocess,
        without=fixed_names(options.fix),
        sizes={} if graph is None else implied_sizes(graph),
        text=options.text,
    )


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
