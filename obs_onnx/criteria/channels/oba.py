"""Optimal Brain Apoptosis (Sun et al. 2025, arXiv 2502.17941): weights that go together, to second order.

When all weights w go, the loss changes by ``-g w + w (H w) / 2``, each weight's share of it being its own
term. The terms of a channel are all those of its coupled group, producers and consumers alike; they are
summed with their signs, and the absolute value of the sum is averaged over batches. ``H w`` is the exact
product with the Hessian.

The authors propagate the product through the layers with the gradient at the output kept fixed. That is the
product with ``H' = H - J^T (d2L/dy2) J``, without the Gauss-Newton part: on chains of ReLU layers without
biases, where the output is linear in the weights of each layer, it is (layers - 1) times plain Taylor.
``oba_paper`` is that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.passes.channels.coupling import Group

__all__ = ["oba", "oba_paper", "oba_second"]


def oba(evidence: ChannelStatistics, group: Group) -> NDArray[np.float64]:
    """``|sum -g w + w (H w) / 2|``."""
    return evidence.weight_changes("oba", group)


def oba_second(evidence: ChannelStatistics, group: Group) -> NDArray[np.float64]:
    """``|sum w (H w) / 2|``, as at a minimum."""
    return evidence.weight_changes("oba-second", group)


def oba_paper(evidence: ChannelStatistics, group: Group) -> NDArray[np.float64]:
    """``|sum w (H' w)|``, as the authors compute it, for comparison."""
    return evidence.weight_changes("oba-paper", group)
