"""The change of the loss when a channel's gate goes from one to zero, to second order and exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from obs_onnx.evidence import Evidence
from obs_onnx.passes.coupling import Group
from obs_onnx.saliency.magnitude import l2

__all__ = ["gates"]


def gates(evidence: Evidence, group: Group) -> NDArray[np.float64]:
    """``|-g + h / 2|`` with the derivatives g and h of the mean loss; one Hessian product per channel.

    Groups whose channels are never summed are ranked by the norm of their weights.
    """
    if not evidence.gates.sees(group):
        return l2(evidence, group)
    found = evidence.gates.curvatures[group.id]
    return np.abs(found.diagonal / 2 - found.gradient)
