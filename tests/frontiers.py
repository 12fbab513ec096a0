"""A small frontier, as pareto() measures it."""

from __future__ import annotations

from obs_onnx.results.frontier import Frontier, Point
from obs_onnx.results.pruning import Latency


def point(ms: float | None, error: float | None, macs: int, **more: object) -> Point:
    """A model of so many multiply-accumulates."""
    latency = None if ms is None else Latency(ms, ms, ms, 30)
    ratio = None if ms is None else ms / 4
    fields = {"parameters": macs, "peak_activation_bytes": 10 * macs, "file_bytes": 4 * macs}
    fields |= {"agreement": None if error is None else 1 - error, "accuracy": None}
    return Point(ms, latency, ratio, None, macs, output_error=error, **(fields | more))


def a_frontier(**changes: object) -> Frontier:
    """The dense model, two that are kept and one that is dominated between them."""
    fields: dict[str, object] = {
        "model": "models/a.onnx",
        "output": "out",
        "cost": "latency",
        "by": "error",
        "dense": point(4.0, 0.0, 1000),
        "points": (
            point(3.0, 0.01, 700, accuracy=0.9), point(2.9, 0.2, 650, dominated=True),
            point(1.0, 0.1, 250, accuracy=0.8),
        ),
        "seconds": {"trace": 1.0},
        "runtime": "onnxruntime",
        "batch": 1,
        "seed": 0,
    }  # fmt: skip
    return Frontier(**(fields | changes))  # type: ignore[arg-type]
