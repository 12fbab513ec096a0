"""The dense and the pruned model beside their quantized forms, measured."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from obs_onnx.data.sources import Source
from obs_onnx.evaluation.measures.metric import ACCURACY, Metric
from obs_onnx.evaluation.measures.yardstick import Yardstick
from obs_onnx.evaluation.quality import evaluate_sessions
from obs_onnx.io.onnx_file import file_size, serialize
from obs_onnx.latency.benchmark import bench
from obs_onnx.results.pruning import Combination, Latency
from obs_onnx.runtimes import Runtime
from obs_onnx.runtimes.sessions.partial_run import Values, open_whole
from obs_onnx.verification.front import Front

__all__ = ["combine"]


def combine(
    models: Mapping[str, ir.Model],
    front: Front,
    where: Runtime,
    held_out: Source,
    labelled: Source | None,
    timed: tuple[Runtime, Values] | None,
    yardstick: Yardstick | None = None,
    metric: Metric = ACCURACY,
) -> tuple[Combination, ...]:
    """Measure several models on the same data, and time them in turn.

    Args:
        models: by name, as far as they are measured; errors and agreement are relative to the first.
        front: where they were cut; files and times are those of complete models.
        where: runtime to measure on.
        held_out: data for errors and agreement.
        labelled: data for the accuracy, if there is any.
        timed: runtime and feed for latencies, if they are wanted.
        yardstick: how outputs are measured; without one, the first model's outputs say it.
        metric: on labelled data.
    """
    sizes = {name: file_size(front.closed(front.complete(model))) for name, model in models.items()}
    sessions = {name: open_whole(where, model) for name, model in models.items()}
    latencies: list[Latency | None] = [None] * len(models)
    if timed is not None:
        complete = [serialize(front.timed(one)) for one in models.values()]
        found = bench(complete, timed[0], feed=timed[1], seconds=1.0).latencies
        latencies = [Latency(one.median, one.p10, one.p90, one.runs) for one in found]
    first = next(iter(sessions.values()))
    made: list[Combination] = []
    for (name, session), latency in zip(sessions.items(), latencies, strict=True):
        quality = judged = None
        if session is not first:
            quality = evaluate_sessions(session, held_out, first, yardstick=yardstick)
        if labelled is not None:
            judged = evaluate_sessions(session, labelled, yardstick=yardstick, metric=metric)
        made.append(
            Combination(
                model=name,
                file_bytes=sizes[name],
                accuracy=None if judged is None else judged.accuracy,
                output_error=None if quality is None else quality.output_error,
                agreement=None if quality is None else quality.agreement,
                metric=None if judged is None or metric is ACCURACY else judged.figure(metric),
                latency_ms=latency,
            )
        )
    return tuple(made)
