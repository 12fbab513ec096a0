"""The dense and the pruned model beside their quantized forms, measured."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from obs_onnx.data.sources import Source
from obs_onnx.evaluation.quality import evaluate_sessions
from obs_onnx.io.onnx_file import serialize
from obs_onnx.latency.benchmark import bench
from obs_onnx.results.pruning import Combination, Latency
from obs_onnx.runtimes import Runtime, Session
from obs_onnx.runtimes.partial_run import Values

__all__ = ["combine"]


def combine(
    models: Mapping[str, ir.Model],
    where: Runtime,
    held_out: Source,
    labelled: Source | None,
    timed: tuple[Runtime, Values] | None,
) -> tuple[Combination, ...]:
    """Measure several models on the same data, and time them in turn.

    Args:
        models: by name; errors and agreement are relative to the first.
        where: runtime to measure on.
        held_out: data for errors and agreement.
        labelled: data for the accuracy, if there is any.
        timed: runtime and feed for latencies, if they are wanted.
    """
    written = {name: serialize(model) for name, model in models.items()}
    sessions = {name: where.session(data) for name, data in written.items()}
    latencies: list[Latency | None] = [None] * len(models)
    if timed is not None:
        found = bench(list(written.values()), timed[0], feed=timed[1], seconds=1.0).latencies
        latencies = [Latency(one.median, one.p10, one.p90, one.runs) for one in found]
    first = next(iter(sessions.values()))
    return tuple(
        _measured(name, len(written[name]), session, first, held_out, labelled, latency)
        for (name, session), latency in zip(sessions.items(), latencies, strict=True)
    )


def _measured(
    name: str,
    size: int,
    session: Session,
    first: Session,
    held_out: Source,
    labelled: Source | None,
    latency: Latency | None,
) -> Combination:
    quality = None if session is first else evaluate_sessions(session, held_out, first)
    return Combination(
        model=name,
        file_bytes=size,
        accuracy=None if labelled is None else evaluate_sessions(session, labelled).accuracy,
        output_error=None if quality is None else quality.output_error,
        agreement=None if quality is None else quality.agreement,
        latency_ms=latency,
    )
