"""evaluate(): accuracy, output error and agreement of a model on data."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any

from obs_onnx.data.open_source import open_source
from obs_onnx.evaluation.quality import Evaluation, evaluate_sessions
from obs_onnx.passes.errors import boundary
from obs_onnx.runtimes import ModelSource, Runtime, Session, open_runtime

__all__ = ["evaluate"]


def evaluate(
    model: ModelSource | Session,
    data: Any,
    *,
    labels_key: str | None = None,
    preprocess: object = None,
    against: ModelSource | Session | None = None,
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
        against: the reference for ``output_error`` and ``agreement``.
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
        session = load(model)
        source = open_source(
            data, session.inputs, batch_size=batch_size, labels_key=labels_key, preprocess=preprocess
        )
        return evaluate_sessions(
            session, source, None if against is None else load(against), progress=progress
        )
