"""evaluate(): accuracy, output error and agreement of a model on data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import onnx_ir as ir

from obs_onnx.data.open_source import open_source
from obs_onnx.evaluation.metric import open_metric
from obs_onnx.evaluation.options import AUTO, MeasureOptions
from obs_onnx.evaluation.quality import Evaluation, evaluate_sessions, paired
from obs_onnx.evaluation.yardstick import read_outputs
from obs_onnx.io.onnx_file import from_proto, load_model, parse
from obs_onnx.passes.canonical.canonicalize import plain
from obs_onnx.passes.errors import ModelError, boundary
from obs_onnx.runtimes import ModelSource, Runtime, Session, open_runtime

__all__ = ["evaluate"]


def evaluate(
    model: ModelSource | Session,
    data: Any,
    *,
    labels_key: str | None = None,
    preprocess: object = None,
    against: ModelSource | Session | None = None,
    task: str = AUTO,
    weight: Mapping[str, float] | None = None,
    metric: str | Callable[..., Any] | None = None,
    metric_lower_is_better: bool = False,
    custom_domains: Sequence[str] = (),
    runtime: Runtime | None = None,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Run a model over data, and measure.

    Args:
        model: a file, its bytes, or a session.
        data: a source, or anything :func:`obs_onnx.data.open_source.open_source` opens.
        labels_key: name of the labels in the data; by default ``labels`` if there are any.
        preprocess: how images become arrays, see docs/data.md; by default ``preprocess.json`` beside them.
        against: the reference for ``output_error`` and ``agreement``; it runs over the data twice, first for
            the spread of its outputs.
        task, weight, metric, metric_lower_is_better: see
            :class:`obs_onnx.evaluation.options.MeasureOptions`.
        custom_domains: of operators that are known to the runtime alone.
        runtime: where to run files and bytes; onnxruntime by default.
        batch_size: samples per run where the model's batch is free.
        progress: called with the number of batches done.

    Raises:
        ModelError, DataError, OptionError, MissingRuntimeError: see :mod:`obs_onnx.passes.errors`.
    """

    def load(given: ModelSource | Session) -> Session:
        nonlocal runtime
        if not isinstance(given, (bytes, str, PathLike)):
            return given
        runtime = runtime or open_runtime()
        return runtime.session(given)

    with boundary("the model cannot be evaluated"):
        asked = MeasureOptions(
            task=task, weight=weight, metric=metric, metric_lower_is_better=metric_lower_is_better
        )
        session = load(model)
        source = open_source(
            data, session.inputs, batch_size=batch_size, labels_key=labels_key, preprocess=preprocess
        )
        reference = None if against is None else load(against)
        if reference is not None:
            paired(session, reference)
        dense, given = (session, model) if reference is None else (reference, against)
        yardstick = read_outputs(
            dense,
            source,
            model=_graph(given, custom_domains),
            task=asked.task,
            weights=asked.weight,
            spreads=reference is not None,
        )
        return evaluate_sessions(
            session,
            source,
            reference,
            yardstick=yardstick,
            metric=open_metric(asked.metric, asked.metric_lower_is_better, yardstick.task),
            progress=progress,
        )


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
