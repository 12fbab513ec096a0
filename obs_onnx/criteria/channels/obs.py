"""Structured Optimal Brain Surgeon: what a channel is worth to all layers that read it, compensated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from obs_onnx.criteria.channel_statistics import ChannelStatistics, Consumption
from obs_onnx.criteria.channels.magnitude import l2
from obs_onnx.passes.channels.coupling import Group
from obs_onnx.solvers.structured_obs import Consumer, greedy_order

__all__ = ["surgeon"]


def surgeon(evidence: ChannelStatistics, group: Group) -> NDArray[np.float64]:
    """Summed loss of all layers by the time the channel is the next to go, in greedy order.

    Groups that no layer reads are ranked by the norm of their weights.
    """
    reading = evidence.consumers(group)
    if not reading:
        return l2(evidence, group)
    found = greedy_order(_consumers(evidence, reading), group.n)
    scores = np.empty(group.n)
    scores[found.order] = found.losses
    return _distinct(scores, found.order)


def _consumers(evidence: ChannelStatistics, reading: Iterable[Consumption]) -> Iterator[Consumer]:
    """One after the other: the problems of all may be too large to be held."""
    for one in reading:
        yield Consumer(evidence.posed(one.layer).problem, one.columns)


def _distinct(scores: NDArray[np.float64], order: NDArray[np.int64]) -> NDArray[np.float64]:
    """Scores that keep the order of removal where losses are equal."""
    for before, after in pairwise(order):
        scores[after] = max(scores[after], np.nextafter(scores[before], np.inf))
    return scores
