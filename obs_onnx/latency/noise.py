"""What disturbed the measurements of a run, told once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from obs_onnx.results.benchmark import Benchmark

__all__ = ["Noise"]

_TOO_MUCH = 1 / 3  # of all measurements


@dataclass
class Noise:
    """Counts measurements that were disturbed, and why.

    Attributes:
        measurements: of all.
        disturbed: measurements with at least one reason to trust them little.
        causes: reason -> measurements.
    """

    measurements: int = 0
    disturbed: int = 0
    causes: Counter[str] = field(default_factory=Counter)

    def add(self, found: Benchmark) -> None:
        """One more measurement."""
        self.measurements += 1
        self.disturbed += found.noisy
        self.causes.update(found.causes)

    def include(self, other: Noise) -> None:
        """All measurements of another one."""
        self.measurements += other.measurements
        self.disturbed += other.disturbed
        self.causes.update(other.causes)

    def lines(self) -> list[str]:
        """One line for people, or none."""
        if not self.disturbed:
            return []
        causes = ", ".join(f"{cause} ({count})" for cause, count in self.causes.most_common())
        text = f"latency is noisy in {self.disturbed} of {self.measurements} measurements: {causes}"
        if self.disturbed > _TOO_MUCH * self.measurements:
            text += "; the machine is too busy to trust them: run again when it is idle"
        return [text]
