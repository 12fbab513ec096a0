"""The exhaustive oracle (Molchanov et al. 2017, section 2.1): remove one channel, measure, put it back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.passes.channels.coupling import Group

__all__ = ["oracle"]


def oracle(evidence: ChannelStatistics, group: Group) -> NDArray[np.float64]:
    """Damage to the outputs when one channel alone is removed without compensation.

    Where the evidence has no measure of damage, the absolute change of the loss.
    """
    if evidence.damage is None:
        return np.abs(evidence.removals[group.id])
    masks = ~np.eye(group.n, dtype=bool)
    return np.array([evidence.damage(group, mask) for mask in masks])
