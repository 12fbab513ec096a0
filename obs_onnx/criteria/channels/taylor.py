"""First-order Taylor expansion of the loss in the channel's activations (Molchanov et al. 2017, eq. 6-8).

For one example, with activations ``z_m`` of a channel at positions m, wherever the group's channel is read,

    |sum_m z_m dL/dz_m| = |dL/dgate|

averaged over examples: the absolute value is taken example by example and after the signed sum. Equation 8
divides by the number of positions; here it does not, so that a score is a change of the loss and comparable
between layers. Within a layer, and after normalisation by layer, it makes no difference.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.criteria.channels.magnitude import l2
from obs_onnx.passes.channels.coupling import Group

__all__ = ["taylor"]


def taylor(evidence: ChannelStatistics, group: Group) -> NDArray[np.float64]:
    """Mean over examples of the absolute first-order change of the loss.

    Groups whose channels are never summed are ranked by the norm of their weights.
    """
    if not evidence.gates.sees(group):
        return l2(evidence, group)
    found = evidence.gates.gradients(group, "noisy")
    return found.absolute / found.examples
