"""The exhaustive oracle (Molchanov et al. 2017, section 2.1): remove one channel, measure, put it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.passes.channels.coupling import Group

__all__ = ["RemovalDamage", "damages", "oracle"]

RemovalDamage: TypeAlias = Callable[[NDArray[np.bool_]], float]
"""What removing channels of a group without compensation does to the outputs; kept ones as a mask."""


def oracle(evidence: ChannelStatistics, group: Group) -> NDArray[np.float64]:
    """(channels,) absolute change of the loss when one channel alone is removed without compensation."""
    return np.abs(evidence.removals[group.id])


def damages(group: Group, damage: RemovalDamage) -> NDArray[np.float64]:
    """(channels,) damage to the outputs when one channel alone is removed without compensation.

    Args:
        group: which one.
        damage: measures removals of its channels.
    """
    return np.array([damage(mask) for mask in ~np.eye(group.n, dtype=bool)])
