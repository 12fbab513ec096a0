"""Magnitude of the weights: a norm over all that goes with a channel, producers and consumers alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.passes.channels.coupling import Group

__all__ = ["l1", "l2"]


def l1(evidence: ChannelStatistics, group: Group) -> NDArray[np.float64]:
    """Sum of absolute weights (Li et al. 2017, arXiv 1608.08710), over the whole coupled group."""
    return _sum(evidence, group, 1)


def l2(evidence: ChannelStatistics, group: Group) -> NDArray[np.float64]:
    """Euclidean norm of the weights, over the whole coupled group (Fang et al. 2023, arXiv 2301.12900)."""
    return np.sqrt(_sum(evidence, group, 2))


def _sum(evidence: ChannelStatistics, group: Group, power: int) -> NDArray[np.float64]:
    total = np.zeros(group.n)
    for rows, elements in evidence.weights(group):
        total += elements @ (np.abs(rows) ** power).sum(1)
    return total
