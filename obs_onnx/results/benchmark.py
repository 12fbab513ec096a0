"""What bench() returns: latencies, and their ratios with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Benchmark", "Latency", "Ratio"]


SLOW = "one run in ten is over 25% slower than the median"


UNSURE = "the median is only known to within 10%"


BUSY = "the machine was busy before"


@dataclass(frozen=True)
class Latency:
    """Milliseconds per run.

    Attributes:
        median, p10, p90: over all runs.
        runs: that were timed.
        low, high: 95% confidence interval of the median.
    """

    median: float
    p10: float
    p90: float
    runs: int
    low: float
    high: float

    def to_json(self) -> dict[str, float | int]:
        """Median, p10, p90, runs, and the interval as low and high."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class Ratio:
    """Latency divided by the first model's: median over rounds, and its 95% confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Benchmark:
    """Latencies of models that were timed together.

    Attributes:
        latencies: one per model.
        ratios: to the first model, one per model.
        environment: machine, runtime, threads, cores, batch.
        noise: why the numbers deserve little trust; empty if they do not.
        shapes: of the arrays that the first model was timed on, by input.
        timed_on: what they are.
    """

    latencies: tuple[Latency, ...]
    ratios: tuple[Ratio, ...]
    environment: Mapping[str, Any]
    noise: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    timed_on: str = "random numbers"

    @property
    def noisy(self) -> bool:
        """Whether something disturbed the measurement."""
        return bool(self.noise)

    @property
    def causes(self) -> tuple[str, ...]:
        """What is in ``noise``, without the models and numbers."""
        return tuple(c for c in (SLOW, UNSURE, BUSY) if any(c in reason for reason in self.noise))

    def rows(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """One flat dict per model for tables and JSON: model, latency, ratio, runtime, threads, batch."""
        shared = {key: self.environment.get(key) for key in ("runtime", "threads", "batch")}
        return [
            {"model": name, **latency.to_json(), "ratio": ratio.value, **shared}
            for name, latency, ratio in zip(names, self.latencies, self.ratios, strict=True)
        ]
