"""How a pruned model does, and how far it is from its targets."""

from __future__ import annotations

from dataclasses import dataclass

from obs_onnx.allocation.targets import Targets
from obs_onnx.evaluation.quality import Evaluation

__all__ = ["Judged"]


@dataclass(frozen=True)
class Judged:
    """How a pruned model does.

    Attributes:
        quality: against the dense model, on held-out data.
        drop: loss of accuracy as a share, if there are labels.
    """

    quality: Evaluation
    drop: float | None

    def strain(self, targets: Targets) -> float:
        """Largest ratio of a measured figure to its limit; at most 1 if all limits hold."""
        pairs = ((self.quality.output_error, targets.error), (self.drop, targets.drop))
        return max((value / limit for value, limit in pairs if limit and value is not None), default=0.0)
