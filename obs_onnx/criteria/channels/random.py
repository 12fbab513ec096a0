"""The criterion that any other has to beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.passes.channels.coupling import Group

__all__ = ["at_random"]


def at_random(evidence: ChannelStatistics, group: Group) -> NDArray[np.float64]:
    """Random numbers, the same for the same seed and group."""
    return np.random.default_rng([evidence.seed, group.id]).random(group.n)
