"""The change of the loss when a channel's gate goes from one to zero, to second order and exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.criteria.channels.magnitude import l2
from obs_onnx.passes.channels.coupling import Group

__all__ = ["gates"]


def gates(evidence: ChannelStatistics, group: Group) -> NDArray[np.float64]:
    """``|-g + h / 2|`` with the derivatives g and h of the mean loss; one Hessian product per channel.

    Groups whose channels are never summed are ranked by the norm of their weights.
    """
    if not evidence.gates.sees(group):
        return l2(evidence, group)
    found = evidence.gates.curvatures[group.id]
    return np.abs(found.diagonal / 2 - found.gradient)
