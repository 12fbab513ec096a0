"""Optimal Brain Damage (LeCun et al. 1989) for channels: the diagonal of the Hessian of the gates.

The paper takes the network to be at a minimum, so that the first derivative drops out. The second derivatives
here are exact, not propagated approximations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.criteria.channels.magnitude import l2
from obs_onnx.passes.channels.coupling import Group

__all__ = ["obd"]


def obd(evidence: ChannelStatistics, group: Group) -> NDArray[np.float64]:
    """``|h| / 2`` with the second derivative h of the mean loss with respect to the gate.

    Groups whose channels are never summed are ranked by the norm of their weights.
    """
    if not evidence.gates.sees(group):
        return l2(evidence, group)
    return np.abs(evidence.gates.curvatures[group.id].diagonal) / 2
