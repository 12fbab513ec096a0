"""The criterion that any other has to beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from obs_onnx.evidence import Evidence
from obs_onnx.passes.coupling import Group

__all__ = ["at_random"]


def at_random(evidence: Evidence, group: Group) -> NDArray[np.float64]:
    """Random numbers, the same for the same seed and group."""
    return np.random.default_rng([evidence.seed, group.id]).random(group.n)
