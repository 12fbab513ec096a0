"""The data of a run: to learn from, to measure errors on, and to count right answers on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from obs_onnx.data.sources import Source
from obs_onnx.pruning.effort import LEAST_SAMPLES
from obs_onnx.runtimes.partial_run import Values

__all__ = ["DAMAGE_SHARE", "CalibrationData"]

DAMAGE_SHARE = 0.3


@dataclass(frozen=True)
class CalibrationData:
    """Calibration data, split, and labelled data.

    Attributes:
        fit, held_out: to learn from, and to measure errors on.
        labelled: for the accuracy, or None.
        seed: of everything random.
        notes: what the user should know about the data.
    """

    fit: Source
    held_out: Source
    labelled: Source | None
    seed: int
    notes: tuple[str, ...] = ()

    @cached_property
    def first(self) -> Values:
        """A batch of held-out data."""
        return next(iter(self.held_out))

    @cached_property
    def sample(self) -> Values:
        """One held-out sample."""
        return next(iter(self.held_out.rebatch(1)))

    def for_damage(self) -> tuple[Source, Source]:
        """Data for the moments behind damage curves, and other data on which the damage is measured.

        With very little data, all of it serves both purposes.
        """
        if self.fit.count is None or self.fit.count * (1 - DAMAGE_SHARE) >= LEAST_SAMPLES:
            return self.fit.split(DAMAGE_SHARE, self.seed)
        return self.fit, self.fit
