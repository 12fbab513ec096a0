"""Fisher information of a channel's gate (Theis et al. 2018, arXiv 1801.05787).

``E[g^2] / 2`` with the derivative g of an example's loss with respect to the gate: near a minimum of the
likelihood it is the second-order change of the loss when the channel goes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.criteria.channels.magnitude import l2
from obs_onnx.passes.channels.coupling import Group

__all__ = ["fisher"]


def fisher(evidence: ChannelStatistics, group: Group) -> NDArray[np.float64]:
    """Half the mean square over examples and over classes with the model's own probabilities.

    Groups whose channels are never summed are ranked by the norm of their weights.
    """
    if not evidence.gates.sees(group):
        return l2(evidence, group)
    found = evidence.gates.gradients(group, "expected")
    return found.square / found.examples / 2
