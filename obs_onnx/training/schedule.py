"""The learning rate over the steps of a run: linear warm-up, then half a cosine down to zero."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """Rate at step k = 0, 1, ..., steps - 1.

    ``peak (k + 1) / warmup`` during the warm-up, then
    ``peak (1 + cos(pi (k - warmup) / (steps - warmup))) / 2``
    (Loshchilov and Hutter, SGDR, 2017, eq. 5, without restarts).

    Attributes:
        peak: largest rate.
        steps: of the run.
        warmup: steps on the way up.
    """

    peak: float
    steps: int
    warmup: int = 0

    def __call__(self, step: int) -> float:
        """The rate at ``step``."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        share = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.peak * (1 + math.cos(math.pi * min(share, 1.0))) / 2
