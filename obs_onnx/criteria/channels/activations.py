"""Statistics of what a channel carries into the layers that read it (Molchanov et al. 2017, section 2.2)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from obs_onnx.criteria.channel_statistics import ChannelStatistics, Signal
from obs_onnx.criteria.channels.magnitude import l2
from obs_onnx.passes.channels.coupling import Group

__all__ = ["average", "deviation", "share_not_zero"]


def average(evidence: ChannelStatistics, group: Group) -> NDArray[np.float64]:
    """Absolute mean activation."""
    return _over_inputs(evidence, group, lambda s: np.abs(s.total) / s.positions)


def deviation(evidence: ChannelStatistics, group: Group) -> NDArray[np.float64]:
    """Standard deviation of the activation."""
    return _over_inputs(
        evidence,
        group,
        lambda s: np.sqrt(np.maximum(s.square / s.positions - (s.total / s.positions) ** 2, 0)),
    )


def share_not_zero(evidence: ChannelStatistics, group: Group) -> NDArray[np.float64]:
    """One minus the average percentage of zeros (APoZ, Hu et al. 2016, arXiv 1607.03250)."""
    return _over_inputs(evidence, group, lambda s: 1 - s.zeros / s.positions)


def _over_inputs(
    evidence: ChannelStatistics, group: Group, statistic: Callable[[Signal], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Mean over all elements that go with a channel; where no layer reads it, the norm of its weights."""
    total, count = np.zeros(group.n), np.zeros(group.n)
    for signal, elements in evidence.signal(group):
        total += elements @ statistic(signal)
        count += elements.sum(axis=1)
    return total / np.maximum(count, 1) if count.any() else l2(evidence, group)
